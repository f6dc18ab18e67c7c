//! SIP: messages, transactions and the endpoint. No IMS policy lives here.
//!
//! Reading order: [`message`], [`lines`], `index`, [`header`], [`parameter`], [`uri`], [`address`], [`via`],
//! [`keep_alive`], then [`endpoint`] with [`server`] and [`client`], then [`proxy`] and [`locate`].

pub mod address;
pub mod auth;
pub mod client;
pub mod conversion;
pub mod endpoint;
pub mod framer;
pub mod header;
mod index;
pub mod keep_alive;
pub mod lines;
pub mod locate;
pub mod locator;
pub mod message;
pub mod p_headers;
pub mod parameter;
pub mod proxy;
pub mod security;
pub mod server;
pub mod uri;
pub mod via;
