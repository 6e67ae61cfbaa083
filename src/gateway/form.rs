//! `multipart/form-data` with a JSON text and a file behind it.

use axum::{
    body::Bytes,
    http::{HeaderMap, header},
};
use multer::{Field, Multipart};
use serde::de::DeserializeOwned;

use super::{
    error::{ApiError, Code},
    json,
    upload::{Cut, Unused, Upload},
};

/// Name of the part with the file.
pub const FILE: &str = "file";
/// Bytes of the largest JSON text.
const TEXT_MAX: usize = 64 * 1024;

/// A form on its way.
pub struct Form<'a> {
    parts: Multipart<'a>,
    unused: Unused,
    /// Name of the part with the JSON text.
    text: &'static str,
}

/// The file in it.
pub struct File<'a> {
    field: Field<'a>,
    unused: Unused,
}

impl<'a> Form<'a> {
    /// Begins to read a form with a JSON text of this name.
    ///
    /// # Errors
    /// Where the header says that it is something else.
    pub fn new(headers: &HeaderMap, upload: &'a mut Upload, text: &'static str) -> Result<Self, ApiError> {
        let kind =
            headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let boundary = multer::parse_boundary(kind).map_err(|_| {
            let message =
                format!("the body must be multipart/form-data with a boundary: the part '{text}', then the part '{FILE}'");
            ApiError::new(Code::Validation, message)
        })?;
        let unused = upload.unused();
        Ok(Self { parts: Multipart::new(upload, boundary), unused, text })
    }

    async fn next(&mut self) -> Result<Option<File<'a>>, ApiError> {
        self.unused.none();
        let field = self.parts.next_field().await.map_err(|error| refused(&error))?;
        Ok(field.map(|field| File { field, unused: self.unused.clone() }))
    }

    /// What the JSON text says, and the file. Other parts are nobody's business.
    ///
    /// # Errors
    /// Where one of the two is missing, the text is not as it should be, or it comes after the file: a file is worked on while
    /// it comes.
    pub async fn read<T: DeserializeOwned>(&mut self) -> Result<(T, File<'a>), ApiError> {
        let name = self.text;
        let mut said = None;
        while let Some(mut part) = self.next().await? {
            match part.field.name() {
                Some(FILE) => {
                    let message = format!("the part '{FILE}' must come after the part '{name}'");
                    return said.map(|said| (said, part)).ok_or(ApiError::new(Code::Validation, message));
                }
                Some(found) if found == name => {
                    if said.is_some() {
                        return Err(twice(name));
                    }
                    said = Some(json::parse(&part.text(name).await?)?);
                }
                _ => part.skip().await?,
            }
        }
        let missing = if said.is_some() { FILE } else { name };
        Err(ApiError::new(Code::Validation, format!("the part '{missing}' is missing")))
    }

    /// Reads what comes after the file.
    ///
    /// # Errors
    /// Where there is another one, so that nobody knows which was meant, or the form does not end as a form does.
    pub async fn end(&mut self) -> Result<(), ApiError> {
        while let Some(mut part) = self.next().await? {
            match part.field.name() {
                Some(name) if name == FILE || name == self.text => return Err(twice(name)),
                _ => part.skip().await?,
            }
        }
        Ok(())
    }
}

impl File<'_> {
    /// What the client calls it.
    pub fn name(&self) -> Option<&str> {
        self.field.file_name()
    }

    /// The next bytes; `None` at its end.
    ///
    /// # Errors
    /// Where the body ends before, is too slow, or is no form.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        self.unused.none();
        self.field.chunk().await.map_err(|error| refused(&error))
    }

    async fn text(&mut self, name: &str) -> Result<Vec<u8>, ApiError> {
        let mut text = Vec::new();
        while let Some(bytes) = self.next().await? {
            text.extend_from_slice(&bytes);
            if text.len() > TEXT_MAX {
                let message = format!("the part '{name}' has more than {TEXT_MAX} bytes");
                return Err(ApiError::new(Code::TooLarge, message));
            }
        }
        Ok(text)
    }

    async fn skip(&mut self) -> Result<(), ApiError> {
        while self.next().await?.is_some() {}
        Ok(())
    }
}

fn twice(name: &str) -> ApiError {
    ApiError::new(Code::Validation, format!("the part '{name}' is there twice"))
}

fn refused(error: &multer::Error) -> ApiError {
    if let multer::Error::StreamReadFailed(inner) = error
        && let Some(cut) = inner.downcast_ref::<Cut>()
    {
        return (*cut).into();
    }
    ApiError::new(Code::Validation, format!("the body is no complete multipart/form-data: {error}"))
}
