//! `docs/token-errors.md`: the table for people.

use std::fmt::Write;

use super::{CODES, Row, VENDORS};

const HEAD: &str = "\
# Token errors

<!-- Generated from src/token_host/error/ by `make generate`. Do not edit. -->

Every return value of PKCS#11 3.2 that is an error, and what this operator makes of it. Messages in conditions, events, logs and
REST answers are put together from this table:

```
CKR_DEVICE_MEMORY: there is no room on the token; destroy keys or enlarge the partition (C_GenerateKeyPair)
```

That is the value, its cause, the next step, and the function that the library answered so.

`Kind` is the word of the metric `hsm_operator_hsm_calls_total`, and decides on retries and on the
[condition's reason](troubleshooting.md#trouble-with-a-token). `Who` is who has to act:

| Who | |
| --- | --- |
| nobody | it passes by itself, and is tried again where that is safe |
| person | somebody who looks after the cluster or the HSM |
| caller | whoever made the object or sent the request |

Modules use these values differently, so none is believed alone: what a login, a session or a token is worth is found out by
trying. A value that is in no table keeps its number, with kind `Device`.

## PKCS#11
";

const VENDOR: &str = "\
These numbers mean something with this vendor's module alone, which is told by the manufacturer that the module or its token
names, and by the file's name before the module has started.
";

/// The page.
#[must_use]
pub fn page() -> String {
    let mut text = HEAD.to_owned();
    table(&mut text, CODES);
    for vendor in VENDORS {
        let _ = write!(text, "\n## {}\n\n{VENDOR}", vendor.name);
        table(&mut text, vendor.rows);
    }
    text
}

fn table(text: &mut String, rows: &[Row]) {
    text.push_str(
        "\n| Value | Number | Kind | Who | Cause | Next step |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let number = match row.last {
            last if last == row.first => format!("{:#010x}", row.first),
            last => format!("{:#010x} to {last:#010x}", row.first),
        };
        let name = if row.name.is_empty() { String::new() } else { format!("`{}`", row.name) };
        let kind: &str = row.kind.into();
        let who: &str = row.kind.actor().into();
        let _ = writeln!(text, "| {name} | {number} | {kind} | {who} | {} | {} |", row.cause, row.next);
    }
}
