//! Files of several types and sizes, made on the spot.

use std::f64::consts::TAU;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Pixels along each side of the picture.
const PICTURE_SIZE: u8 = 160;
/// Samples per second of the tone.
const TONE_RATE: u32 = 16_000;
/// Size of the file that has no structure.
const NOISE_BYTES: usize = 8 << 20;

/// Writes the samples into a new directory and returns their paths.
pub(super) fn write(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::create_dir(dir)?;
    let files: [(&str, Vec<u8>); 7] = [
        ("hello.txt", b"This file came from the other node.\n".to_vec()),
        ("notes.md", b"# Notes\n\n- stored once\n- named by what is in it\n- the same everywhere\n".to_vec()),
        ("readings.csv", readings().into_bytes()),
        ("drawing.svg", drawing().into_bytes()),
        ("picture.png", picture()),
        ("tone.wav", tone()),
        ("noise.bin", noise()),
    ];
    files
        .into_iter()
        .map(|(name, content)| {
            let path = dir.join(name);
            fs::write(&path, content)?;
            Ok(path)
        })
        .collect()
}

fn readings() -> String {
    let mut text = String::from("hour,celsius\n");
    for hour in 0..24 * 365 {
        let celsius = 10.0
            + 8.0 * (f64::from(hour) / 24.0 / 365.0 * TAU).sin()
            + 4.0 * (f64::from(hour) / 24.0 * TAU).sin();
        let _ = writeln!(text, "{hour},{celsius:.2}");
    }
    text
}

fn drawing() -> String {
    let mut text = String::from("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-50 -50 100 100\">\n");
    for step in 1..=24 {
        let _ = writeln!(
            text,
            "<circle r=\"{}\" fill=\"none\" stroke=\"hsl({} 70% 50%)\"/>",
            step * 2,
            step * 15
        );
    }
    text.push_str("</svg>\n");
    text
}

/// A PNG of a colour gradient: uncompressed, which needs no library.
fn picture() -> Vec<u8> {
    let size = u32::from(PICTURE_SIZE);
    let mut rows = Vec::new();
    for y in 0..PICTURE_SIZE {
        rows.push(0); // No filter.
        for x in 0..PICTURE_SIZE {
            rows.extend([x, y, 255 - x]);
        }
    }
    let mut zlib = vec![0x78, 0x01];
    let mut blocks = rows.chunks(usize::from(u16::MAX)).peekable();
    while let Some(block) = blocks.next() {
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        zlib.push(u8::from(blocks.peek().is_none()));
        zlib.extend(length.to_le_bytes());
        zlib.extend((!length).to_le_bytes());
        zlib.extend(block);
    }
    zlib.extend(adler32(&rows).to_be_bytes());

    let mut header = Vec::new();
    header.extend(size.to_be_bytes());
    header.extend(size.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]); // 8 bits of red, green and blue.
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [(b"IHDR", header), (b"IDAT", zlib), (b"IEND", Vec::new())] {
        png.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
        let start = png.len();
        png.extend(kind);
        png.extend(data);
        png.extend(crc32(&png[start..]).to_be_bytes());
    }
    png
}

/// The checksum of PNG (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 },
        )
    })
}

/// The checksum of zlib (RFC 1950).
fn adler32(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1_u32, 0_u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    b << 16 | a
}

/// One second of a tone as WAV: 16 bits, one channel.
fn tone() -> Vec<u8> {
    let data_bytes = TONE_RATE * 2;
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + data_bytes).to_le_bytes());
    wav.extend(b"WAVEfmt ");
    wav.extend(16_u32.to_le_bytes());
    wav.extend([1, 0, 1, 0]); // PCM, one channel.
    wav.extend(TONE_RATE.to_le_bytes());
    wav.extend(data_bytes.to_le_bytes());
    wav.extend([2, 0, 16, 0]); // Bytes per frame, bits per sample.
    wav.extend(b"data");
    wav.extend(data_bytes.to_le_bytes());
    for n in 0..TONE_RATE {
        let level = (f64::from(n) / f64::from(TONE_RATE) * 440.0 * TAU).sin() * 12_000.0;
        #[expect(clippy::cast_possible_truncation, reason = "within 12,000 either way")]
        wav.extend((level as i16).to_le_bytes());
    }
    wav
}

fn noise() -> Vec<u8> {
    let mut bytes = vec![0; NOISE_BYTES];
    rand::fill(&mut bytes[..]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_are_what_their_names_say() {
        let dir = tempfile::tempdir().unwrap();
        let paths = write(&dir.path().join("samples")).unwrap();
        let kind = |name: &str| {
            let path = paths.iter().find(|path| path.ends_with(name)).unwrap();
            infer::get_from_path(path).unwrap().map(|kind| kind.mime_type())
        };
        assert_eq!(kind("picture.png"), Some("image/png"));
        assert_eq!(kind("tone.wav"), Some("audio/x-wav"));
        let sizes: Vec<u64> = paths.iter().map(|path| fs::metadata(path).unwrap().len()).collect();
        assert!(sizes.iter().all(|size| *size > 0) && sizes.iter().any(|size| *size > 1 << 20), "{sizes:?}");
    }

    #[test]
    fn checksums_are_the_known_ones() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(adler32(b"Wikipedia"), 0x11E6_0398);
    }
}
