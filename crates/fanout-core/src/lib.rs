//! Channels, feeds, publishing and the link to Redis: what every worker of Griot stands on.
