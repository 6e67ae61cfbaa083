//! Templates of callers, read and written anew.

use cryptoki_sys::*;

/// One attribute with its bytes.
pub type Row = (CK_ATTRIBUTE_TYPE, Vec<u8>);

/// Reads a template.
///
/// # Safety
/// The caller of the module says that `rows` points to so many rows, and each row to so many bytes.
pub unsafe fn read(rows: *const CK_ATTRIBUTE, count: CK_ULONG) -> Vec<Row> {
    let count = usize::try_from(count).unwrap_or(0);
    if rows.is_null() || count == 0 {
        return Vec::new();
    }
    // SAFETY: the caller's word.
    let rows = unsafe { std::slice::from_raw_parts(rows, count) };
    let value = |row: &CK_ATTRIBUTE| match usize::try_from(row.ulValueLen) {
        // SAFETY: the caller's word.
        Ok(length) if length > 0 && !row.pValue.is_null() => unsafe {
            std::slice::from_raw_parts(row.pValue.cast::<u8>(), length).to_vec()
        },
        _ => Vec::new(),
    };
    rows.iter().map(|row| (row.type_, value(row))).collect()
}

/// Rows as the C interface takes them; they point into `rows`.
pub fn write(rows: &[Row]) -> Vec<CK_ATTRIBUTE> {
    let row = |(kind, value): &Row| CK_ATTRIBUTE {
        type_: *kind,
        pValue: value.as_ptr().cast_mut().cast(),
        ulValueLen: value.len() as CK_ULONG,
    };
    rows.iter().map(row).collect()
}

/// The value of an attribute.
pub fn find(rows: &[Row], kind: CK_ATTRIBUTE_TYPE) -> Option<&[u8]> {
    rows.iter().find(|row| row.0 == kind).map(|row| row.1.as_slice())
}

/// Whether an attribute is given as true.
pub fn is_true(rows: &[Row], kind: CK_ATTRIBUTE_TYPE) -> bool {
    find(rows, kind) == Some(&[CK_TRUE])
}

/// Sets an attribute, whatever was asked for.
pub fn set(rows: &mut Vec<Row>, kind: CK_ATTRIBUTE_TYPE, value: &[u8]) {
    rows.retain(|row| row.0 != kind);
    rows.push((kind, value.to_vec()));
}

/// Sets a number.
pub fn set_number(rows: &mut Vec<Row>, kind: CK_ATTRIBUTE_TYPE, value: CK_ULONG) {
    set(rows, kind, &value.to_ne_bytes());
}
