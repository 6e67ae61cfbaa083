//! What comes over the connection before it is a request: shapes that others could read in another way, lengths that lie.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    lifecycle::{Fate, Stand, world},
    listener::{Authority, Server, handshake},
    world::World,
};

/// Signs with `p256`; the token counts it.
const SIGN: &str =
    r#"{"signRequest":{"payload":"AA==","signKeyName":"p256","signatureAlgorithm":"SHA256_WITH_ECDSA"}}"#;

struct Line {
    authority: Authority,
    server: Server,
    world: World,
    stand: Arc<Stand>,
}

impl Line {
    async fn new() -> Self {
        let (world, stand) = world(Fate::Ready, &["p256", "ed-destroyable"]).await;
        let authority = Authority::new();
        let server = Server::serving(world.router.clone(), &authority).await;
        Self { authority, server, world, stand }
    }

    /// Sends bytes over a connection of their own and reads all that comes, until the server ends it or is silent. Tells
    /// whether it ended.
    async fn say(&self, bytes: &[u8], close: bool) -> (String, bool) {
        let mut stream = handshake(&self.server, &self.authority.client()).await.expect("a handshake");
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        if close {
            stream.shutdown().await.unwrap();
        }
        let mut said = Vec::new();
        let ended = timeout(Duration::from_millis(700), stream.read_to_end(&mut said)).await.is_ok();
        (String::from_utf8_lossy(&said).into_owned(), ended)
    }

    fn signed(&self) -> usize {
        self.world.fake.count("sign")
    }
}

/// Status lines and codes of all answers, in their order.
fn answers(said: &str) -> Vec<(u16, Option<u64>)> {
    let mut answers = Vec::new();
    for answer in said.split("HTTP/1.1 ").skip(1) {
        let status = answer[..3].parse().unwrap();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let code = serde_json::from_str::<serde_json::Value>(body).ok();
        answers.push((status, code.and_then(|body| body["errorCode"].as_u64())));
    }
    answers
}

fn request(headers: &str, body: &str) -> String {
    let head = "POST /v1/synchronousSign HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer app\r\n";
    format!("{head}{headers}\r\n\r\n{body}")
}

fn chunked(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

#[tokio::test]
async fn a_request_of_one_shape_is_answered() {
    let line = Line::new().await;
    let length = SIGN.len();
    let rows = [
        request(&format!("Content-Length: {length}"), SIGN),
        request("Transfer-Encoding: chunked", &chunked(SIGN)),
        request("Transfer-Encoding: Chunked", &chunked(SIGN)),
    ];
    for row in rows {
        let (said, ended) = line.say(row.as_bytes(), false).await;
        assert_eq!((answers(&said), ended), (vec![(200, None)], false), "{row}\n{said}");
    }
    assert_eq!(line.signed(), 3);
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused_and_ends_the_connection() {
    let line = Line::new().await;
    let length = SIGN.len();
    let hidden = "GET /v1/versionInfo HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer app\r\n\r\n";
    let both = format!("{}{hidden}", chunked(SIGN));
    let rows = [
        request(&format!("Content-Length: {length}\r\nContent-Length: 0"), &format!("{SIGN}{hidden}")),
        request(&format!("Content-Length: {length}, {length}"), &format!("{SIGN}{hidden}")),
        request(&format!("Content-Length: +{length}"), &format!("{SIGN}{hidden}")),
        request(&format!("Content-Length: -{length}"), &format!("{SIGN}{hidden}")),
        request(&format!("Content-Length: 0x{length:x}"), &format!("{SIGN}{hidden}")),
        request("Content-Length: 18446744073709551616", SIGN),
        request("Content-Length:", SIGN),
        request(&format!("Content-Length : {length}"), &format!("{SIGN}{hidden}")),
        request("Transfer-Encoding: identity", &both),
        request("Transfer-Encoding: chunked, identity", &both),
        request("Transfer-Encoding: xchunked", &both),
        request("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", &both),
        request("Transfer-Encoding : chunked", &both),
        request(&format!("X: a\r\n b\r\nContent-Length: {length}"), &format!("{SIGN}{hidden}")),
        request(&format!("X: a\0b\r\nContent-Length: {length}"), &format!("{SIGN}{hidden}")),
        request(&format!("X: a\rb\r\nContent-Length: {length}"), &format!("{SIGN}{hidden}")),
        request(&format!("Content-Length: {length}"), SIGN)
            .replace("HTTP/1.1", "HTTP/1.0\r\nTransfer-Encoding: chunked"),
        request(&format!("Content-Length: {length}"), SIGN).replace("HTTP/1.1", "HTTP/3.0"),
        request(&format!("Content-Length: {length}"), SIGN).replace("POST ", "POST  "),
        "\u{16}\u{3}\u{1}".repeat(8),
    ];
    let mut wrong = Vec::new();
    for row in rows {
        let (said, ended) = line.say(row.as_bytes(), false).await;
        let given = answers(&said);
        if !matches!(given.as_slice(), [(400, None | Some(600))]) || !ended {
            wrong.push(format!("{row:?}\n  {given:?} {ended}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(line.signed(), 0);
}

/// Chunks are what counts, and what comes after the request is not looked at (RFC 9112 6.3): whatever stands before the
/// gateway and goes by the length has nothing served that it did not see.
#[tokio::test]
async fn a_length_beside_chunks_is_the_last_thing_on_its_connection() {
    let line = Line::new().await;
    let length = SIGN.len();
    let hidden = "GET /v1/versionInfo HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer app\r\n\r\n";
    let both = format!("{}{hidden}", chunked(SIGN));
    let rows = [
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {length}"),
        "Content-Length: 0\r\nTransfer-Encoding: chunked".to_owned(),
    ];
    for row in &rows {
        let (said, ended) = line.say(request(row, &both).as_bytes(), false).await;
        assert_eq!((answers(&said), ended), (vec![(200, None)], true), "{row}\n{said}");
    }
    assert_eq!(line.signed(), rows.len());
}

/// RFC 9110 8.6: the same length twice is that length.
#[tokio::test]
async fn a_length_that_is_there_twice_and_the_same_is_one() {
    let line = Line::new().await;
    let length = SIGN.len();
    let twice = request(&format!("Content-Length: {length}\r\nContent-Length: {length}"), SIGN);
    let (said, ended) = line.say(twice.repeat(2).as_bytes(), false).await;
    assert_eq!((answers(&said), ended), (vec![(200, None); 2], false), "{said}");
    assert_eq!(line.signed(), 2);
}

#[tokio::test]
async fn another_protocol_is_not_answered() {
    let line = Line::new().await;
    let (said, ended) = line.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false).await;
    assert_eq!((said.as_str(), ended), ("", true));
}

#[tokio::test]
async fn chunks_that_are_none_are_no_body() {
    let line = Line::new().await;
    let length = SIGN.len();
    let rows = [
        format!("{length:x}\n{SIGN}\n0\n\n"),
        format!("+{length:x}\r\n{SIGN}\r\n0\r\n\r\n"),
        format!("0x{length:x}\r\n{SIGN}\r\n0\r\n\r\n"),
        format!("{:x}\r\n{SIGN}\r\n0\r\n\r\n", length - 1),
        format!("fffffffffffffffff\r\n{SIGN}\r\n0\r\n\r\n"),
        format!("-1\r\n{SIGN}\r\n0\r\n\r\n"),
    ];
    for row in rows {
        let (said, ended) = line.say(request("Transfer-Encoding: chunked", &row).as_bytes(), false).await;
        let given = answers(&said);
        assert!(matches!(given.as_slice(), [] | [(400, Some(621))]) && ended, "{row:?} {given:?} {ended}");
    }
    assert_eq!(line.signed(), 0);
}

#[tokio::test]
async fn a_length_that_lies_makes_no_other_request() {
    let line = Line::new().await;
    let length = SIGN.len();
    // Shorter than what follows: the rest is no request.
    let (said, ended) =
        line.say(request(&format!("Content-Length: {}", length - 1), SIGN).as_bytes(), false).await;
    assert_eq!(answers(&said), [(400, Some(621)), (400, None)], "{said}");
    assert!(ended);
    // Longer, and the connection stays open: the rest is waited for.
    let longer = request(&format!("Content-Length: {}", length + 1), SIGN);
    assert_eq!(line.say(longer.as_bytes(), false).await, (String::new(), false));
    // Longer, and nothing more comes: it is no whole body, however well it may look.
    let (said, ended) = line.say(longer.as_bytes(), true).await;
    assert!(matches!(answers(&said).as_slice(), [] | [(400, Some(621))]) && ended, "{said}");
    // More than is taken: refused by what it says alone.
    let (said, _) = line.say(request("Content-Length: 1000000000", SIGN).as_bytes(), false).await;
    assert_eq!(answers(&said), [(413, Some(612))], "{said}");
    // Who writes all of it reads the answer.
    for size in [600 * 1024, 5_000_000] {
        let large = request(&format!("Content-Length: {size}"), &" ".repeat(size));
        let (said, _) = line.say(large.as_bytes(), false).await;
        assert_eq!(answers(&said), [(413, Some(612))], "{said}");
    }
    assert_eq!(line.signed(), 0);
    assert_eq!(line.stand.changes(), [] as [&str; 0]);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let line = Line::new().await;
    let rows = [
        request(&format!("X: {}\r\nContent-Length: {}", "a".repeat(300_000), SIGN.len()), SIGN),
        request(&format!("{}Content-Length: {}", "X: a\r\n".repeat(200), SIGN.len()), SIGN),
        request(&format!("Content-Length: {}", SIGN.len()), SIGN)
            .replace("/v1/", &format!("/{}", "a".repeat(300_000))),
    ];
    for row in rows {
        let (said, ended) = line.say(row.as_bytes(), false).await;
        assert!(matches!(answers(&said).as_slice(), [(414 | 431, None)]) && ended, "{said}");
    }
    assert_eq!(line.signed(), 0);
}

/// RFC 9112 2.2 lets a server take a lone line feed for the end of a line. All that it must not be is the end of another
/// line for somebody else: such a request is one, with one body.
#[tokio::test]
async fn lines_that_end_in_a_line_feed_alone_are_one_request() {
    let line = Line::new().await;
    let bare = request(&format!("Content-Length: {}", SIGN.len()), SIGN).replace("\r\n", "\n");
    let (said, _) = line.say(bare.as_bytes(), false).await;
    assert_eq!(answers(&said), [(200, None)], "{said}");
    assert_eq!(line.signed(), 1);
}

/// Who keeps connections would send the next request into one that is about to close, and could not tell whether it was
/// seen.
#[tokio::test]
async fn what_is_refused_before_its_body_was_read_leaves_the_connection_as_it_was() {
    let line = Line::new().await;
    let mut stream = handshake(&line.server, &line.authority.client()).await.expect("a handshake");
    let refused = [
        ("POST /v1/synchronousSign", "", 401),
        ("PUT /v1/synchronousSign", "Authorization: Bearer app\r\n", 405),
        ("POST /v1/unknown", "Authorization: Bearer app\r\n", 404),
        ("POST /v1/fileEncrypt", "", 401),
    ];
    for (request, headers, status) in refused.iter().cycle().take(200) {
        let head = format!(
            "{request} HTTP/1.1\r\nHost: gateway.test\r\n{headers}Content-Length: {}\r\n\r\n",
            SIGN.len()
        );
        for part in [head.as_bytes(), SIGN.as_bytes()] {
            stream.write_all(part).await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut said = Vec::new();
        while !said.ends_with(b"}") {
            assert_ne!(stream.read_buf(&mut said).await.expect("the connection stays"), 0, "{request}");
        }
        let said = String::from_utf8(said).unwrap();
        assert_eq!(answers(&said)[0].0, *status, "{said}");
        assert!(!said.to_lowercase().contains("connection: close"), "{said}");
    }
}

#[tokio::test]
async fn a_body_that_nobody_reads_and_that_does_not_come_ends_the_connection_with_the_answer() {
    let line = Line::new().await;
    let head = "POST /v1/synchronousSign HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 9\r\n";
    for request in [format!("{head}\r\nfew"), format!("{head}Expect: 100-continue\r\n\r\n")] {
        let (said, ended) = line.say(request.as_bytes(), false).await;
        assert!(ended && said.to_lowercase().contains("connection: close"), "{said}");
        assert_eq!(answers(&said)[0].0, 401, "{said}");
    }
}
