//! Callers as the API server knows them: TokenReview and SubjectAccessReview with a stand-in that answers.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hsm_operator::{
    auth::{
        Action, Authenticate, Authorize, Caller, Denied, Refused, access::AccessReviews,
        token_review::TokenReviews,
    },
    telemetry::Metrics,
};
use kube::Client;
use serde_json::{Value, json};

/// Answers every review with one status, or not at all.
#[derive(Default)]
struct Reviews {
    status: Mutex<Option<Value>>,
    asked: Mutex<Vec<Value>>,
    /// What `/readyz` says, and what reviews are answered with from then on.
    readiness: Mutex<Option<(StatusCode, Value)>>,
}

impl Reviews {
    fn new(status: Value) -> Arc<Self> {
        Arc::new(Self { status: Mutex::new(Some(status)), ..Self::default() })
    }

    fn say(&self, status: Option<Value>) {
        *self.status.lock().unwrap() = status;
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }

    fn client(self: &Arc<Self>) -> Client {
        let router = Router::new()
            .route("/apis/authentication.k8s.io/v1/tokenreviews", post(review))
            .route("/apis/authorization.k8s.io/v1/subjectaccessreviews", post(review))
            .route("/readyz", get(ready))
            .with_state(self.clone());
        Client::new(router, "default")
    }

    fn authenticate(self: &Arc<Self>) -> TokenReviews {
        TokenReviews::new(self.client(), "hsm-operator".into(), Arc::new(Metrics::default()))
    }

    fn authorize(self: &Arc<Self>) -> AccessReviews {
        AccessReviews::new(self.client(), Arc::new(Metrics::default()))
    }
}

async fn review(State(reviews): State<Arc<Reviews>>, Json(mut review): Json<Value>) -> Response {
    reviews.asked.lock().unwrap().push(review["spec"].clone());
    match reviews.status.lock().unwrap().clone() {
        Some(status) => {
            review["status"] = status;
            (StatusCode::CREATED, Json(review)).into_response()
        }
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn ready(State(reviews): State<Arc<Reviews>>) -> StatusCode {
    match reviews.readiness.lock().unwrap().clone() {
        Some((readiness, status)) => {
            reviews.say(Some(status));
            readiness
        }
        None => StatusCode::OK,
    }
}

fn known(username: &str, audiences: &[&str]) -> Value {
    json!({"authenticated": true, "audiences": audiences, "user": {
        "username": username, "uid": "u-1", "groups": ["system:serviceaccounts"]}})
}

const ACCOUNT: &str = "system:serviceaccount:shop:app";

fn caller() -> Caller {
    Caller {
        username: ACCOUNT.into(),
        uid: "u-1".into(),
        groups: vec!["system:serviceaccounts".into()],
        namespace: "shop".into(),
    }
}

fn usage(name: &str) -> Action {
    Action { verb: "use", resource: "hsmkeys", namespace: "shop".into(), name: name.into() }
}

#[tokio::test]
async fn a_token_is_reviewed_once_for_our_audience() {
    let reviews = Reviews::new(known(ACCOUNT, &["hsm-operator"]));
    let authenticate = reviews.authenticate();
    for _ in 0..3 {
        assert_eq!(authenticate.authenticate("good").await.as_deref(), Ok(&caller()));
    }
    assert_eq!(reviews.asked(), [json!({"audiences": ["hsm-operator"], "token": "good"})]);
    reviews.say(None);
    assert!(authenticate.authenticate("good").await.is_ok(), "remembered");
    assert_eq!(authenticate.authenticate("new").await, Err(Refused::Unavailable));
}

#[tokio::test]
async fn who_is_not_a_service_account_of_ours_is_refused() {
    for (status, refusal) in [
        (json!({"authenticated": false, "error": "it is old"}), "it is old"),
        (json!({}), "does not know it"),
        (known(ACCOUNT, &[]), "audience is not 'hsm-operator'"),
        (known(ACCOUNT, &["https://kubernetes.default.svc"]), "audience is not 'hsm-operator'"),
        (known("jane", &["hsm-operator"]), "'jane' is not a ServiceAccount"),
        (known("system:node:a", &["hsm-operator"]), "is not a ServiceAccount"),
        (known("system:serviceaccount:shop:", &["hsm-operator"]), "is not a ServiceAccount"),
        (known("system:serviceaccount::app", &["hsm-operator"]), "is not a ServiceAccount"),
    ] {
        let reviews = Reviews::new(status.clone());
        let authenticate = reviews.authenticate();
        for _ in 0..2 {
            let refused = authenticate.authenticate("token").await.expect_err("a refusal").to_string();
            assert!(refused.contains(refusal), "{status}: {refused}");
        }
        assert_eq!(reviews.asked().len(), 1, "refusals are remembered too");
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_good_is_not_even_reviewed() {
    let reviews = Reviews::new(known(ACCOUNT, &["hsm-operator"]));
    let old = format!("x.{}.y", URL_SAFE_NO_PAD.encode(r#"{"exp":1700000000}"#));
    let long = "a".repeat(16 * 1024 + 1);
    for token in [old, long] {
        assert!(matches!(reviews.authenticate().authenticate(&token).await, Err(Refused::Invalid(_))));
    }
    assert_eq!(reviews.asked(), [Value::Null; 0]);
}

#[tokio::test]
async fn permission_is_reviewed_for_the_callers_own_name_and_the_object() {
    let reviews = Reviews::new(json!({"allowed": true}));
    let authorize = reviews.authorize();
    for _ in 0..3 {
        assert_eq!(authorize.authorize(&caller(), &usage("signer")).await, Ok(()));
    }
    let spec = json!({
        "user": ACCOUNT, "uid": "u-1", "groups": ["system:serviceaccounts"],
        "resourceAttributes": {"group": "hsm-operator.io", "resource": "hsmkeys", "verb": "use",
            "namespace": "shop", "name": "signer"},
    });
    assert_eq!(reviews.asked(), [spec]);
    // Another object, and the same name after the account was made anew, are asked for themselves.
    reviews.say(Some(json!({"allowed": false})));
    let again = Caller { uid: "u-2".into(), ..caller() };
    for (caller, action) in [(&caller(), &usage("other")), (&again, &usage("signer"))] {
        let denied = authorize.authorize(caller, action).await.expect_err("a denial").to_string();
        assert!(denied.contains("grant verb 'use' on hsmkeys.hsm-operator.io by RBAC"), "{denied}");
    }
    assert_eq!(reviews.asked().len(), 5, "a refusal is repeated before it counts");
}

#[tokio::test]
async fn an_api_server_that_has_just_begun_refuses_nobody() {
    let (yes, no) = (json!({"allowed": true}), json!({"allowed": false}));
    for (readiness, later, answer) in [
        (StatusCode::INTERNAL_SERVER_ERROR, &no, Err(Denied::Unavailable)),
        (StatusCode::OK, &yes, Ok(())),
        // Who keeps its readiness to itself is believed.
        (StatusCode::FORBIDDEN, &yes, Ok(())),
    ] {
        let reviews = Reviews::new(no.clone());
        *reviews.readiness.lock().unwrap() = Some((readiness, later.clone()));
        assert_eq!(reviews.authorize().authorize(&caller(), &usage("signer")).await, answer, "{readiness}");
    }
}

#[tokio::test]
async fn without_a_plain_yes_nothing_is_allowed() {
    for status in [json!({"allowed": false}), json!({"allowed": true, "denied": true})] {
        let denied = Reviews::new(status.clone()).authorize().authorize(&caller(), &usage("signer")).await;
        assert!(matches!(denied, Err(Denied::Forbidden(_))), "{status}");
    }
    let reviews = Reviews::new(Value::Null);
    reviews.say(None);
    assert_eq!(reviews.authorize().authorize(&caller(), &usage("signer")).await, Err(Denied::Unavailable));
}
