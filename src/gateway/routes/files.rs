//! Files: encrypt and decrypt.

use axum::{
    body::{Body, HttpBody},
    extract::{FromRequestParts, Request, State},
    http::{
        HeaderMap, HeaderValue,
        header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE},
        request::Parts,
    },
    response::Response,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    keys::{lookup, usable},
    operations::{may_use, usage},
    password,
};
use crate::{
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, RequestId},
        form::Form,
        json,
        openapi::Document,
        upload::Upload,
    },
    model::Password,
    sealed_file::{HEADER_MAX, Header, InvalidHeader, Suite},
    service::{
        audit::About,
        directory::{Entry, Usable},
        files::{self, Decryption, Encryption, FileError, Output, Place},
    },
};

/// Part of a form that says how its file is encrypted.
const ENCRYPT: &str = "SignedFileEncryptRequestDto";
/// Part of a form that says how its file is decrypted.
const DECRYPT: &str = "SignedFileDecryptRequestDto";
/// What files are that come out.
const MEDIA_TYPE: &str = "application/octet-stream";
/// Bytes that a form may have beyond those of its file.
const FORM_MAX: u64 = 1024 * 1024;
/// What an encrypted file is called beyond the name of the file.
const SUFFIX: &str = ".enc";
/// Characters of a name that are taken over.
const NAME_MAX: usize = 100;

/// What the document says of these endpoints.
pub fn document(document: &mut Document) {
    document.group("Files");
    let encrypt = document.post("/v1/fileEncrypt", "fileEncryption", "Encrypts a file");
    let encrypt = encrypt.takes_file::<EncryptPart>(ENCRYPT);
    encrypt.gives_file(MEDIA_TYPE, "the encrypted file").of_a_name().of_the_token();
    let decrypt = document.post("/v1/synchronousFileDecrypt", "fileDecryption", "Decrypts a file");
    let decrypt = decrypt.takes_file::<DecryptPart>(DECRYPT);
    decrypt.gives_file(MEDIA_TYPE, "the file").of_a_name().of_the_token();
}

/// Part `SignedFileEncryptRequestDto`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SignedFileEncryptRequestDto")]
struct EncryptPart {
    #[serde(deserialize_with = "json::object")]
    file_encrypt_request: EncryptRequest,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FileEncryptRequest")]
struct EncryptRequest {
    encrypt_key_name: String,
}

/// Part `SignedFileDecryptRequestDto`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SignedFileDecryptRequestDto")]
struct DecryptPart {
    #[serde(deserialize_with = "json::object")]
    file_decrypt_request: DecryptRequest,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FileDecryptRequest")]
struct DecryptRequest {
    decrypt_key_name: String,
    key_password: Option<Password>,
}

/// `POST /v1/fileEncrypt`: with the public half of the key, outside of the token.
pub async fn encrypt(State(state): State<Shared>, request: Request) -> Result<Response, ApiError> {
    let (mut parts, mut upload) = begin(&state, request);
    let Caller(caller) = Caller::from_request_parts(&mut parts, &state).await?;
    let RequestId(request_id) = RequestId::from_request_parts(&mut parts, &state).await?;
    let mut form = Form::new(&parts.headers, &mut upload, ENCRYPT)?;
    let (EncryptPart { file_encrypt_request: said }, mut file) = form.read().await?;
    let entry = lookup(&state, &caller, &said.encrypt_key_name).await?;
    let algorithm = algorithm(&entry);
    let record = usage(&caller, &entry, &request_id, "fileEncrypt", algorithm, About::Nothing);
    may_use(&state, &caller, &entry, &record).await?;
    let key = derives(&entry)?;
    // A public key encrypts without a token, also while that is away.
    let hsm = state.partitions.hsm(&key.partition).ok();
    files::served(hsm.as_deref(), state.partitions.shared_secrets(&key.partition))?;
    let place = state.files.place(&caller.namespace).await?;
    let mut encryption = Encryption::begin(&state.files, key)?;
    record.record(None);
    let (name, mut length) = (file.name().map(str::to_owned), 0);
    while let Some(bytes) = file.next().await? {
        length += bytes.len() as u64;
        at_most(length, state.files.largest(), state.files.largest())?;
        encryption.update(&bytes).await?;
    }
    drop(file);
    form.end().await?;
    let name = format!("{}{SUFFIX}", harmless(name.as_deref().unwrap_or("file")));
    answer(encryption.finish(place).await?, &name)
}

/// `POST /v1/synchronousFileDecrypt`: the token gives what it takes to decrypt this one file.
pub async fn decrypt(State(state): State<Shared>, request: Request) -> Result<Response, ApiError> {
    let (mut parts, mut upload) = begin(&state, request);
    let Caller(caller) = Caller::from_request_parts(&mut parts, &state).await?;
    let RequestId(request_id) = RequestId::from_request_parts(&mut parts, &state).await?;
    let mut form = Form::new(&parts.headers, &mut upload, DECRYPT)?;
    let (DecryptPart { file_decrypt_request: said }, mut file) = form.read().await?;
    let entry = lookup(&state, &caller, &said.decrypt_key_name).await?;
    let algorithm = algorithm(&entry);
    let record = usage(&caller, &entry, &request_id, "fileDecrypt", algorithm, About::Nothing);
    may_use(&state, &caller, &entry, &record).await?;
    password::unlock(&state, &entry, said.key_password.as_ref(), &record).await?;
    let key = derives(&entry)?;
    let hsm = state.partitions.hsm(&key.partition)?;
    files::served(Some(hsm.as_ref()), state.partitions.shared_secrets(&key.partition))?;
    let place: Place = state.files.place(&caller.namespace).await?;
    let name = file.name().map(str::to_owned);
    let (mut head, mut length) = (Vec::with_capacity(HEADER_MAX), 0);
    let mut decryption: Option<Decryption> = None;
    while let Some(bytes) = file.next().await? {
        length += bytes.len() as u64;
        at_most(length, state.files.largest_sealed(), state.files.largest())?;
        if let Some(decryption) = &mut decryption {
            decryption.update(&bytes).await?;
            continue;
        }
        head.extend_from_slice(&bytes);
        if let Some((header, at)) = Header::read(&head).map_err(FileError::from)? {
            if let Some(public) = &key.public {
                header.check(public).map_err(FileError::from)?;
            }
            // No two files have the same header, so that its digest tells which one it was.
            let about = About::Ciphertext(&head[..at]);
            usage(&caller, &entry, &request_id, "fileDecrypt", algorithm, about).record(None);
            let begun = Decryption::begin(&state.files, hsm.as_ref(), key, header).await;
            let mut begun = begun.inspect_err(|error| {
                if let FileError::Hsm(error) = error {
                    state.missed.note(state.client.as_ref(), &entry, error);
                }
            })?;
            begun.update(&head[at..]).await?;
            (decryption, head) = (Some(begun), Vec::new());
        }
    }
    drop(file);
    form.end().await?;
    let decryption = decryption.ok_or(FileError::Header(InvalidHeader::Short))?;
    let name = harmless(name.as_deref().unwrap_or("file"));
    let name = name.strip_suffix(SUFFIX).filter(|name| !name.is_empty()).unwrap_or(&name).to_owned();
    answer(decryption.finish(place).await?, &name)
}

/// The request without its body, and the body.
fn begin(state: &Shared, request: Request) -> (Parts, Upload) {
    let (parts, body) = request.into_parts();
    let most = state.files.largest_sealed() + FORM_MAX;
    // What says of itself that it is too large is not asked for.
    let told = if body.size_hint().lower() > most { 0 } else { most };
    (parts, Upload::new(body, told))
}

fn at_most(length: u64, most: u64, largest: u64) -> Result<(), ApiError> {
    if length <= most {
        return Ok(());
    }
    Err(ApiError::new(
        Code::TooLarge,
        format!("the file has more than {largest} bytes, which is the most here"),
    ))
}

/// The key, if it is one for files.
fn derives(entry: &Entry) -> Result<&Usable, ApiError> {
    let key = usable(entry)?;
    // What the token says of the key counts, where it was asked.
    let told = entry.object.status.as_ref().and_then(|status| status.attributes.as_ref()?.derive);
    if told.or(entry.object.spec.attributes.derive) != Some(true) {
        let message = format!("the key '{}' is not for files: its attribute derive is false", entry.label);
        return Err(ApiError::new(Code::Forbidden, message));
    }
    Ok(key)
}

/// What audit records say of the algorithm.
fn algorithm(entry: &Entry) -> Option<&'static str> {
    Suite::of(entry.usable.as_ref()?.public.as_ref()?).map(Suite::name)
}

/// What of a name can stand in a header and on every file system.
fn harmless(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' };
    let name: String = name.chars().take(NAME_MAX).map(plain).collect();
    let name = name.trim_start_matches('.');
    if name.is_empty() { "file".to_owned() } else { name.to_owned() }
}

fn answer(output: Output, name: &str) -> Result<Response, ApiError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(output.length()));
    let named = HeaderValue::try_from(format!("attachment; filename=\"{name}\""));
    headers.insert(CONTENT_DISPOSITION, named.expect("only harmless characters are left"));
    let mut response = Response::new(Body::from_stream(output.into_stream()));
    *response.headers_mut() = headers;
    Ok(response)
}

impl From<FileError> for ApiError {
    fn from(error: FileError) -> Self {
        let code = match &error {
            FileError::Key(_) => Code::AlgorithmNotSupportedByKey,
            FileError::NotServed(_) => Code::Unsupported,
            FileError::Header(_) => Code::FileHeader,
            FileError::Broken(_) => Code::Decrypt,
            FileError::Busy => Code::Busy,
            FileError::Disk(error) => {
                tracing::error!(%error, "a file cannot be put aside on disk");
                Code::Subsystem
            }
            FileError::Hsm(error) => return error.clone().into(),
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_header_or_its_directory() {
        for (name, left) in [
            ("report 1.pdf", "report_1.pdf"),
            ("../../etc/passwd", "_.._etc_passwd"),
            ("a\"; x=\"b\r\nSet-Cookie: c", "a___x__b__Set-Cookie__c"),
            ("...", "file"),
            ("", "file"),
            ("Grüße.txt", "Gr__e.txt"),
        ] {
            assert_eq!(harmless(name), left);
        }
    }
}
