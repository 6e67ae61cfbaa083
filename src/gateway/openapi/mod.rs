//! The OpenAPI 3.1 document: what the routes say of themselves, and schemas of the types that they read and write.
//!
//! A file of routes has one function `document`, which says a line for each of its operations. A test compares what the
//! router serves with what is said here, so that neither gets ahead of the other.

mod operation;
pub mod page;

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

pub use operation::Operation;

use super::error::{self, Code};

/// Where schemas are, as a path into the document.
const SCHEMAS: &str = "/components/schemas";
/// Name of the way in which callers say who they are.
const TOKEN: &str = "serviceAccountToken";
/// What the document says of itself.
const ABOUT: &str = "Keys in a hardware security module, in the dialect of the Securosys REST API. In a pod with the \
    sidecar no credential is needed: the sidecar adds the pod's token, and answers 502, 503 or 504 itself where no gateway \
    does. Elsewhere, a ServiceAccount token for the gateway's audience goes with every request. Explicit nulls are as absent, \
    and members that are not listed are ignored.";

/// A document that is being written.
pub struct Document {
    /// What is read may leave out what is always written.
    reads: SchemaGenerator,
    writes: SchemaGenerator,
    group: &'static str,
    paths: Map<String, Value>,
}

impl Document {
    /// With no operation yet.
    #[must_use]
    pub fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = SCHEMAS.into();
            settings.meta_schema = None;
        });
        Self {
            reads: settings.clone().for_deserialize().into_generator(),
            writes: settings.for_serialize().into_generator(),
            group: "",
            paths: Map::new(),
        }
    }

    /// Under which heading the next operations are.
    pub fn group(&mut self, name: &'static str) -> &mut Self {
        self.group = name;
        self
    }

    /// An operation with `GET`. A path names its parameters in braces, whatever the router calls them.
    pub fn get(&mut self, path: &str, id: &str, summary: &str) -> Operation<'_> {
        Operation::new(self, "get", path, id, summary)
    }

    /// An operation with `POST`.
    pub fn post(&mut self, path: &str, id: &str, summary: &str) -> Operation<'_> {
        Operation::new(self, "post", path, id, summary)
    }

    /// An operation with `DELETE`.
    pub fn delete(&mut self, path: &str, id: &str, summary: &str) -> Operation<'_> {
        Operation::new(self, "delete", path, id, summary)
    }

    fn read<T: JsonSchema>(&mut self) -> Value {
        self.reads.subschema_for::<T>().into()
    }

    fn written<T: JsonSchema>(&mut self) -> Value {
        self.writes.subschema_for::<T>().into()
    }

    /// The document as it is served.
    ///
    /// # Panics
    /// Where two types that differ have one name: `#[schemars(rename = "…")]` gives one of them another.
    #[must_use]
    pub fn finish(mut self) -> Value {
        let refusal = self.written::<error::Body>();
        let mut schemas = self.reads.take_definitions(true);
        for (name, schema) in self.writes.take_definitions(true) {
            match schemas.get(&name) {
                None => drop(schemas.insert(name, schema)),
                Some(other) => assert!(*other == schema, "two different schemas are named {name}"),
            }
        }
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "hsm-operator",
                "description": ABOUT,
                "version": env!("CARGO_PKG_VERSION"),
                "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            },
            // Of whoever serves the document: the gateway, or the sidecar before it.
            "servers": [{ "url": "/" }],
            "security": [{ TOKEN: [] }],
            "paths": self.paths,
            "components": {
                "schemas": schemas,
                "responses": refusals(&refusal),
                "securitySchemes": { TOKEN: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A Kubernetes ServiceAccount token. The sidecar adds it.",
                } },
            },
        })
    }
}

impl Default for Document {
    fn default() -> Self {
        Self::new()
    }
}

/// Each status that refuses, with the codes that come with it.
fn refusals(schema: &Value) -> Map<String, Value> {
    let mut statuses: Vec<_> = Code::all().map(|code| code.wire().0).collect();
    statuses.sort_unstable();
    statuses.dedup();
    let one = |status: axum::http::StatusCode| {
        let rows = Code::all().map(Code::wire).filter(|row| row.0 == status);
        let mut codes: Vec<_> = rows.map(|(_, code, reason)| format!("{code} `{reason}`")).collect();
        codes.sort_unstable();
        codes.dedup();
        let reason = status.canonical_reason().unwrap_or_default();
        let mut response = json!({
            "description": format!("{reason}: {}", codes.join(", ")),
            "content": { "application/json": { "schema": schema } },
        });
        if Code::Busy.wire().0 == status {
            response["headers"] = json!({ "Retry-After": {
                "description": "Seconds", "schema": { "type": "integer", "minimum": 0 },
            } });
        }
        (refusal(status.as_u16()), response)
    };
    statuses.into_iter().map(one).collect()
}

/// Name of a refusal among the document's responses.
fn refusal(status: u16) -> String {
    format!("Refused{status}")
}
