//! What browsers, scanners and worse send to a port.

/// An ordinary request; each its own.
pub(crate) fn polite(number: usize) -> Vec<u8> {
    let path = ["/", "/ready", "/debug/events", "/debug/clients?q=nobody"][number % 4];
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes()
}

/// Anything else. All of it ends with an answer or a hang-up at once; who is only slow is another matter.
pub(crate) fn rude(number: usize) -> Vec<u8> {
    let long = "x".repeat(40_000);
    match number % 9 {
        0 => noise(number, 600),
        1 => b"\0\0\0\0\r\n\r\n".to_vec(),
        2 => b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        3 => format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes(),
        4 => format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n").into_bytes(),
        5 => {
            let lines: String = (0..200).map(|line| format!("X-{line}: {number}\r\n")).collect();
            format!("GET / HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n").into_bytes()
        }
        6 => b"GET /metrics HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n".to_vec(),
        7 => [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), noise(number, 600)].concat(),
        _ => b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
    }
}

/// Bytes without a meaning, the same for the same number; begin with one that begins no request.
fn noise(number: usize, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number as u64);
    let rest = std::iter::repeat_with(|| random.u8(..));
    std::iter::once(0x16).chain(rest).take(length).chain(*b"\r\n\r\n").collect()
}
