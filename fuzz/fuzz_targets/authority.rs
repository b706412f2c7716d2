//! The filter in front of `h2`, judged by an HPACK of somebody else: what comes out says what went in but for
//! authorities, and those that come out are authorities, or what went in.
#![no_main]

use httlib_hpack::Decoder;
use libfuzzer_sys::fuzz_target;
use spiffe_sds::listen::fuzzing::authority;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

type Headers = Vec<(Vec<u8>, Vec<u8>)>;

/// A connection made of a description that may say anything but nothing that is no HTTP/2 framing.
fn connection(mut data: &[u8]) -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    let mut stream = 1_u32;
    while let [kind, length, rest @ ..] = data {
        let (content, later) = rest.split_at(usize::from(*length).min(rest.len()));
        data = later;
        let frame = |out: &mut Vec<u8>, kind: u8, flags: u8, content: &[u8]| {
            out.extend(&(content.len() as u32).to_be_bytes()[1..]);
            out.extend([kind, flags]);
            out.extend(stream.to_be_bytes());
            out.extend(content);
        };
        match kind & 0x7 {
            0 => frame(&mut out, 0, 0, content),
            1 => frame(&mut out, 4, 0, content),
            2 => {
                // Padded, with priority, in two frames.
                let (one, two) = content.split_at(content.len() / 2);
                let padding = usize::from(kind >> 3);
                let padded = [&[padding as u8, 0, 0, 0, 0, 1][..], one, &vec![0; padding]].concat();
                frame(&mut out, 1, 0x8 | 0x20, &padded);
                frame(&mut out, 9, 4, two);
            }
            _ => frame(&mut out, 1, 4, content),
        }
        stream += 2;
    }
    out
}

/// The header blocks of a connection and everything else, `None` where somebody else's HPACK gives up.
fn read(bytes: &[u8]) -> Option<(Vec<Headers>, Vec<u8>)> {
    let mut rest = bytes.strip_prefix(PREFACE)?;
    let (mut blocks, mut others) = (Vec::new(), Vec::new());
    let mut decoder = Decoder::with_dynamic_size(4096);
    let mut block: Option<Vec<u8>> = None;
    while let [a, b, c, kind, flags, _, _, _, _, content @ ..] = rest {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let (mut content, later) = content.split_at_checked(length)?;
        rest = later;
        match kind {
            1 => {
                if flags & 0x8 != 0 {
                    let (padding, padded) = content.split_first()?;
                    content = padded.get(..padded.len().checked_sub(usize::from(*padding))?)?;
                }
                content = if flags & 0x20 != 0 { content.get(5..)? } else { content };
                block = Some(content.to_vec());
            }
            9 => block.as_mut()?.extend(content),
            _ => {
                others.extend([*kind, *flags]);
                others.extend(content);
                continue;
            }
        }
        if flags & 4 != 0 {
            let (mut block, mut headers) = (block.take()?, Vec::new());
            decoder.decode(&mut block, &mut headers).ok()?;
            blocks.push(headers.into_iter().map(|(name, value, _)| (name, value)).collect());
        }
    }
    rest.is_empty().then_some((blocks, others))
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let input = if kind & 1 == 0 { connection(data) } else { data.to_vec() };
    let pieces: Vec<_> = input.chunks(1 + usize::from(kind >> 1)).collect();
    let output = authority(&pieces);
    assert!(output.len() <= input.len(), "it never adds");
    assert_eq!(output, authority(&[&input]), "how it comes makes no difference");
    let Some((before, others)) = read(&input) else { return };
    let (after, same) = read(&output).expect("what was whole stays so");
    assert_eq!((before.len(), others), (after.len(), same));
    for ((name, value), (new_name, new_value)) in before.iter().flatten().zip(after.iter().flatten()) {
        assert_eq!(name, new_name);
        if value != new_value {
            assert_eq!((name.as_slice(), value.len()), (b":authority".as_slice(), new_value.len()));
            assert!(http::uri::Authority::try_from(new_value.as_slice()).is_ok(), "{new_value:?}");
        }
    }
    assert_eq!(before.iter().map(Vec::len).collect::<Vec<_>>(), after.iter().map(Vec::len).collect::<Vec<_>>());
});
