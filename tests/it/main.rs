//! Every promise against real servers, in one binary so that the tests share one set of them.

mod api;
mod cache;
mod change_log;
mod configuration;
mod connections;
mod continuity;
mod database;
mod demo;
mod fence;
mod full_redis;
mod hostile;
mod intake;
mod invalidation;
mod leader;
mod listen;
mod listeners;
mod readme;
mod recovery;
mod replay;
mod rfc6455;
mod right_person;
mod rules;
mod storm;
mod trials;
