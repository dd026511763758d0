//! Compiles `proto/can_sync.proto` with protox, so that no `protoc` has to be installed, and takes note of the date.

use std::time::{SystemTime, UNIX_EPOCH};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/can_sync.proto");
    let descriptors = protox::compile(["proto/can_sync.proto"], ["proto"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;

    // For builds that are to be the same whenever they are made: https://reproducible-builds.org/specs/source-date-epoch/
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let built_secs = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(secs) => secs.trim().parse::<u64>()?,
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    println!("cargo:rustc-env=CAN_SYNC_BUILT_MS={}", built_secs * 1000);
    Ok(())
}
