//! Takes Swagger UI's files out of the archive that a crate carries. Nothing is fetched.

use std::{
    env, fs,
    io::{Cursor, Read},
    path::Path,
};

use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
use zip::{CompressionMethod, ZipArchive};

/// Files of the archive, below its only folder.
const FILES: &[&str] = &[
    "dist/swagger-ui-bundle.js",
    "dist/swagger-ui.css",
    "dist/favicon-32x32.png",
    // Its licence asks for both of them to come along.
    "LICENSE",
    "NOTICE",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let out = env::var_os("OUT_DIR").expect("cargo says where");
    let mut archive = ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED)).expect("the crate's archive is one");
    for file in FILES {
        let index = (0..archive.len())
            .find(|index| {
                let name = archive.name_for_index(*index).and_then(Result::ok);
                name.is_some_and(|name| name.split_once('/').is_some_and(|(_, below)| below == *file))
            })
            .unwrap_or_else(|| panic!("Swagger UI has no {file} any more"));
        let name = Path::new(file).file_name().expect("it is a file");
        fs::write(Path::new(&out).join(name), gzip(&mut archive, index)).expect("OUT_DIR can be written to");
    }
}

/// A member as gzip (RFC 1952). What is deflated in the archive goes over as it is.
fn gzip(archive: &mut ZipArchive<Cursor<&[u8]>>, index: usize) -> Vec<u8> {
    let mut member = archive.by_index_raw(index).expect("it was just found");
    let (stored, crc, size) =
        (member.compression() == CompressionMethod::STORE, member.crc32(), member.size());
    assert!(
        stored || member.compression() == CompressionMethod::DEFLATE,
        "{:?}: neither stored nor deflated",
        member.name()
    );
    let mut raw = Vec::new();
    member.read_to_end(&mut raw).expect("it is in memory");
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    if stored {
        // One block that is not compressed, the last one.
        let length = u16::try_from(raw.len()).expect("what is stored is small");
        file.push(1);
        file.extend(length.to_le_bytes());
        file.extend((!length).to_le_bytes());
    }
    file.extend(raw);
    file.extend(crc.to_le_bytes());
    file.extend(u32::try_from(size).expect("it is below 4 GiB").to_le_bytes());
    file
}
