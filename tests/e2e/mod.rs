//! The binary as users run it: with foreign clients, crashes, broken disks and wrong settings.

mod adaptive_keepalive;
mod authentication;
mod bans;
mod built;
mod clients;
mod command_line;
mod device_c;
mod device_reach;
mod fan_out;
mod gateway;
mod gateway_growth;
mod gateway_update;
mod history;
mod hostile;
mod inbox;
mod journey;
mod kill;
mod outage;
mod power;
mod resuming_publisher;
mod returning;
mod scenarios;
mod serve;
mod set_aside;
mod store;
mod transports;
