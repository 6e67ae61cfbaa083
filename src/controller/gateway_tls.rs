//! The gateways' certificate and the CA that pods trust: made, renewed and published by whoever leads.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ObjectMeta, Patch, PatchParams},
    core::GroupVersionKind,
    discovery,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::context::MANAGER;

/// Signer whose trust bundle the sidecars mount.
pub const SIGNER: &str = "hsm-operator.io/gateway";
const DAY: i64 = 24 * 3600;
/// The CA lives ten years and is renewed in the last; certificates live 90 days and are renewed in the last 30.
const CA_DAYS: i64 = 3650;
const CA_RENEW_DAYS: i64 = 365;
const LEAF_DAYS: i64 = 90;
const LEAF_RENEW_DAYS: i64 = 30;
/// How often it is looked at.
const PERIOD: Duration = Duration::from_secs(600);

/// Where things are kept and who is certified.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The operator's namespace.
    pub namespace: String,
    /// Service of the gateways.
    pub service: String,
    /// Secret with the gateways' certificate.
    pub secret: String,
}

/// What stops it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The API server.
    #[error("cannot {what}")]
    Api {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// Making a certificate.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
}

fn api(what: &'static str) -> impl FnOnce(kube::Error) -> TlsError {
    move |source| TlsError::Api { what, source: Box::new(source) }
}

/// Keeps everything in order until `end`.
pub async fn keep(client: Client, settings: Settings, end: CancellationToken) {
    loop {
        let pause = match ensure(&client, &settings, Timestamp::now()).await {
            Ok(()) => PERIOD,
            Err(error) => {
                tracing::warn!(error = %crate::telemetry::logs::chain(&error), "the gateways' certificate is not in order");
                Duration::from_secs(5)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = end.cancelled() => return,
        }
    }
}

/// Makes and publishes what is missing or old.
///
/// # Errors
/// [`TlsError`]; it is tried again.
pub async fn ensure(client: &Client, settings: &Settings, now: Timestamp) -> Result<(), TlsError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &settings.namespace);
    let ca_secret = format!("{}-ca", settings.service);
    let ca = match stored(&secrets, &ca_secret, CA_RENEW_DAYS, now).await? {
        Some(pair) => pair,
        None => {
            let pair = make_ca(settings, now)?;
            store(&secrets, &ca_secret, &pair, None, CA_DAYS, now).await?;
            pair
        }
    };
    let leaf = stored(&secrets, &settings.secret, LEAF_RENEW_DAYS, now).await?;
    // A leaf of another CA would be trusted by nobody.
    if leaf.is_none_or(|leaf| leaf.ca.as_deref() != Some(ca.certificate.as_str())) {
        let pair = make_leaf(settings, &ca, now)?;
        store(&secrets, &settings.secret, &pair, Some(&ca.certificate), LEAF_DAYS, now).await?;
        tracing::info!(secret = settings.secret, "made a certificate for the gateways");
    }
    publish(client, settings, &ca.certificate).await
}

struct Pair {
    certificate: String,
    key: String,
    ca: Option<String>,
}

/// Annotation with the end of a certificate's life, so that nobody has to parse it.
const END: &str = "hsm-operator.io/not-after";

async fn stored(
    secrets: &Api<Secret>,
    name: &str,
    renew_days: i64,
    now: Timestamp,
) -> Result<Option<Pair>, TlsError> {
    let Some(secret) = secrets.get_opt(name).await.map_err(api("read the Secret of a certificate"))? else {
        return Ok(None);
    };
    let text = |key: &str| {
        let bytes = secret.data.as_ref()?.get(key)?;
        String::from_utf8(bytes.0.clone()).ok()
    };
    let end = secret.metadata.annotations.as_ref().and_then(|all| all.get(END)?.parse::<Timestamp>().ok());
    let fresh = end.is_some_and(|end| end.as_second() - now.as_second() > renew_days * DAY);
    Ok(match (fresh, text("tls.crt"), text("tls.key")) {
        (true, Some(certificate), Some(key)) => Some(Pair { certificate, key, ca: text("ca.crt") }),
        _ => None,
    })
}

async fn store(
    secrets: &Api<Secret>,
    name: &str,
    pair: &Pair,
    ca: Option<&str>,
    days: i64,
    now: Timestamp,
) -> Result<(), TlsError> {
    let end = Timestamp::from_second(now.as_second() + days * DAY).unwrap_or(now);
    let mut data = BTreeMap::new();
    let mut put = |key: &str, text: &str| data.insert(key.to_owned(), ByteString(text.as_bytes().to_vec()));
    put("tls.crt", &pair.certificate);
    put("tls.key", &pair.key);
    put("ca.crt", ca.unwrap_or(&pair.certificate));
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.into()),
            annotations: Some([(END.to_owned(), end.to_string())].into()),
            ..Default::default()
        },
        type_: Some("kubernetes.io/tls".into()),
        data: Some(data),
        ..Default::default()
    };
    let params = PatchParams::apply(MANAGER).force();
    secrets
        .patch(name, &params, &Patch::Apply(&secret))
        .await
        .map_err(api("write the Secret of a certificate"))?;
    Ok(())
}

fn base(name: &str, now: Timestamp, days: i64) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::OrganizationName, "hsm-operator");
    params.distinguished_name.push(DnType::CommonName, name);
    // Clocks of pods may lag.
    let at = |seconds: i64| {
        rcgen::date_time_ymd(1970, 1, 1)
            + Duration::from_secs(u64::try_from(now.as_second() + seconds).unwrap_or(0))
    };
    params.not_before = at(-300);
    params.not_after = at(days * DAY);
    Ok(params)
}

fn make_ca(settings: &Settings, now: Timestamp) -> Result<Pair, TlsError> {
    let key = KeyPair::generate()?;
    let mut params = base(&format!("{} CA", settings.service), now, CA_DAYS)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?.pem();
    Ok(Pair { certificate, key: key.serialize_pem(), ca: None })
}

fn make_leaf(settings: &Settings, ca: &Pair, now: Timestamp) -> Result<Pair, TlsError> {
    let key = KeyPair::generate()?;
    let Settings { namespace, service, .. } = settings;
    let mut params = base(service, now, LEAF_DAYS)?;
    let names = [
        service.clone(),
        format!("{service}.{namespace}"),
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.cluster.local"),
        "localhost".to_owned(),
    ];
    params.subject_alt_names = names
        .into_iter()
        .map(|name| Ok(rcgen::SanType::DnsName(name.try_into()?)))
        .collect::<Result<_, rcgen::Error>>()?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let ca_key = KeyPair::from_pem(&ca.key)?;
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, ca_key)?;
    let certificate = params.signed_by(&key, &issuer)?.pem();
    Ok(Pair { certificate, key: key.serialize_pem(), ca: None })
}

/// The CA, where pods and people find it: a ConfigMap beside the operator, and a ClusterTrustBundle where the
/// cluster has them.
async fn publish(client: &Client, settings: &Settings, ca: &str) -> Result<(), TlsError> {
    let name = format!("{}-ca", settings.service);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &settings.namespace);
    let current = maps.get_opt(&name).await.map_err(api("read the ConfigMap of the CA"))?;
    if current.and_then(|map| map.data?.remove("ca.crt")).as_deref() != Some(ca) {
        let map = ConfigMap {
            metadata: ObjectMeta { name: Some(name.clone()), ..Default::default() },
            data: Some([("ca.crt".to_owned(), ca.to_owned())].into()),
            ..Default::default()
        };
        let params = PatchParams::apply(MANAGER).force();
        maps.patch(&name, &params, &Patch::Apply(&map))
            .await
            .map_err(api("write the ConfigMap of the CA"))?;
    }
    let Some(resource) = trust_bundles(client).await? else { return Ok(()) };
    let bundles: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let bundle_name = format!("{}:ca", SIGNER.replace('/', ":"));
    let current = bundles.get_opt(&bundle_name).await.map_err(api("read the ClusterTrustBundle"))?;
    if current.is_some_and(|bundle| bundle.data["spec"]["trustBundle"] == ca) {
        return Ok(());
    }
    let bundle = json!({
        "apiVersion": resource.api_version,
        "kind": "ClusterTrustBundle",
        "metadata": { "name": bundle_name },
        "spec": { "signerName": SIGNER, "trustBundle": ca },
    });
    let params = PatchParams::apply(MANAGER).force();
    bundles
        .patch(&bundle_name, &params, &Patch::Apply(&bundle))
        .await
        .map_err(api("write the ClusterTrustBundle"))?;
    Ok(())
}

/// The newest version of ClusterTrustBundle that the cluster serves.
async fn trust_bundles(client: &Client) -> Result<Option<ApiResource>, TlsError> {
    for version in ["v1", "v1beta1"] {
        let kind = GroupVersionKind::gvk("certificates.k8s.io", version, "ClusterTrustBundle");
        match discovery::pinned_kind(client, &kind).await {
            Ok((resource, _)) => return Ok(Some(resource)),
            Err(kube::Error::Discovery(_)) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(api("look for ClusterTrustBundles")(error)),
        }
    }
    Ok(None)
}
