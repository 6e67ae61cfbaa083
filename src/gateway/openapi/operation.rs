//! One operation of the document.

use schemars::JsonSchema;
use serde_json::{Value, json};

use super::{Document, refusal};
use crate::gateway::form::FILE;

/// What may happen to every request: nobody knows the caller, it may not do this, we made a mistake, we are busy.
const ALWAYS: &[u16] = &[401, 403, 501, 503];
/// What may happen to a request with a body.
const WITH_BODY: &[u16] = &[400, 413];
/// What may happen where a path has a parameter.
const WITH_PARAMETER: &[u16] = &[400, 404];
/// What may happen where something is looked for.
const WITH_NAME: &[u16] = &[400, 404, 500];
/// What may happen where the token is asked.
const WITH_TOKEN: &[u16] = &[400, 500, 504];

/// An operation that is being described.
pub struct Operation<'a> {
    document: &'a mut Document,
    path: String,
    method: &'static str,
}

impl<'a> Operation<'a> {
    pub(super) fn new(
        document: &'a mut Document,
        method: &'static str,
        path: &str,
        id: &str,
        summary: &str,
    ) -> Self {
        let parameters: Vec<_> = names(path).map(parameter).collect();
        let item = document.paths.entry(path).or_insert_with(|| json!({}));
        assert!(item.get(method).is_none(), "{method} {path} is described twice");
        item[method] =
            json!({ "tags": [document.group], "operationId": id, "summary": summary, "responses": {} });
        let new = Self { document, path: path.to_owned(), method };
        if parameters.is_empty() {
            return new.may(ALWAYS);
        }
        let mut new = new.may(ALWAYS).may(WITH_PARAMETER);
        new.value()["parameters"] = parameters.into();
        new
    }

    /// It reads a body.
    pub fn takes<T: JsonSchema>(mut self) -> Self {
        let schema = self.document.read::<T>();
        self.value()["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        self.may(WITH_BODY)
    }

    /// It reads a form: a JSON text of this name, and a file behind it.
    pub fn takes_file<T: JsonSchema>(mut self, text: &str) -> Self {
        let schema = json!({
            "type": "object",
            "required": [text, FILE],
            "properties": { text: self.document.read::<T>(), FILE: { "contentMediaType": "application/octet-stream" } },
        });
        let encoding = json!({ text: { "contentType": "application/json" } });
        self.value()["requestBody"] = json!({
            "description": "The parts come in this order.",
            "required": true,
            "content": { "multipart/form-data": { "schema": schema, "encoding": encoding } },
        });
        self.may(WITH_BODY)
    }

    /// It answers with JSON.
    pub fn gives<T: JsonSchema>(self, status: u16, what: &str) -> Self {
        let schema = self.document.written::<T>();
        self.answer(status, what, &json!({ "application/json": { "schema": schema } }))
    }

    /// It answers with a file.
    pub fn gives_file(self, media_type: &str, what: &str) -> Self {
        self.answer(200, what, &json!({ media_type: {} }))
    }

    /// It answers 200 without a body.
    pub fn gives_nothing(mut self, what: &str) -> Self {
        self.value()["responses"]["200"] = json!({ "description": what });
        self
    }

    /// It looks for a key, or for something else that has a name.
    pub fn of_a_name(self) -> Self {
        self.may(WITH_NAME)
    }

    /// It asks the token.
    pub fn of_the_token(self) -> Self {
        self.may(WITH_TOKEN)
    }

    /// Its parameter is a number.
    pub fn number(mut self, least: u32, most: u32) -> Self {
        self.value()["parameters"][0]["schema"] =
            json!({ "type": "integer", "minimum": least, "maximum": most });
        self
    }

    /// There is a newer form of it.
    pub fn deprecated(mut self) -> Self {
        self.value()["deprecated"] = true.into();
        self
    }

    fn answer(mut self, status: u16, what: &str, content: &Value) -> Self {
        self.value()["responses"][status.to_string()] = json!({ "description": what, "content": content });
        self
    }

    fn may(mut self, refuse: &[u16]) -> Self {
        for status in refuse {
            self.value()["responses"][status.to_string()] =
                json!({ "$ref": format!("#/components/responses/{}", refusal(*status)) });
        }
        self
    }

    fn value(&mut self) -> &mut Value {
        &mut self.document.paths[&self.path][self.method]
    }
}

/// Names in braces.
fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0))
}

fn parameter(name: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } })
}
