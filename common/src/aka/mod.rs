//! Authentication and key agreement (TS 33.102, TS 35.206, TS 35.231, TS 34.108 §8.1.2, RFC 3310).

pub mod digest;
pub mod milenage;
pub mod test_algorithm;
pub mod tuak;
pub mod vector;
