//! Who leads a region: a row in PostgreSQL that runs out unless its holder renews it.
//!
//! PostgreSQL's clock decides between workers. A holder bounds itself by its own monotonic clock, see [`Tenure`].

use std::time::{Duration, Instant};

use sqlx::PgPool;

use crate::cursor::check_region;
use crate::error::Error;
use crate::tenure::Tenure;

/// How long looking and taking over may take; renewing has what is left of the lease.
const CALL: Duration = Duration::from_secs(3);

/// A worker that leads its region or would if the leader were gone.
#[derive(Debug, Clone)]
pub struct Candidate {
    pool: PgPool,
    region: String,
    holder: String,
    lease: Duration,
}

/// What a candidate finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has just taken over.
    Leads(Tenure),
    /// Another one leads.
    Follows {
        /// Who.
        holder: String,
        /// Since which term.
        term: i64,
        /// For how long at least, unless it gives up before.
        remaining: Duration,
    },
}

impl Candidate {
    /// A candidate for `region`. `holder` must be no other process's name, not even an earlier one's. Does no I/O.
    ///
    /// # Errors
    /// [`Error::Region`] when the region's name is not valid.
    pub fn new(pool: PgPool, region: &str, holder: String, lease: Duration) -> Result<Self, Error> {
        check_region(region)?;
        Ok(Self { pool, region: region.to_owned(), holder, lease })
    }

    /// Looks who leads, and takes over when nobody does.
    ///
    /// # Errors
    /// PostgreSQL is away, is a standby, or its schema is older.
    pub async fn stand(&self) -> Result<Standing, Error> {
        within("look who leads", CALL, self.look_or_take()).await
    }

    async fn look_or_take(&self) -> Result<Standing, Error> {
        let standby: bool = sqlx::query_scalar("select pg_is_in_recovery()").fetch_one(&self.pool).await?;
        if standby {
            return Err(Error::Standby);
        }
        // Looked at before it is taken: an attempt that fails would still lock the row, and so write, ten times a second.
        let found: Option<(String, i64, i64)> = sqlx::query_as(
            "select holder, term, (extract(epoch from until - clock_timestamp()) * 1000000)::bigint
             from griot.leader where region = $1",
        )
        .bind(&self.region)
        .fetch_optional(&self.pool)
        .await?;
        let (holder, term, micros) = found.unwrap_or_default();
        if micros <= 0
            && let Some(tenure) = self.take().await?
        {
            return Ok(Standing::Leads(tenure));
        }
        // Not positive: somebody else was faster, and the next look says who.
        let remaining = Duration::from_micros(u64::try_from(micros).unwrap_or_default());
        Ok(Standing::Follows { holder, term, remaining })
    }

    async fn take(&self) -> Result<Option<Tenure>, Error> {
        let asked = Instant::now();
        // `until` is set again in the update, after the wait for the row: `excluded` is from before it. Taking over
        // moves the cursor's term in the same statement, so that the one before has saved what it will ever save.
        let term: Option<i64> = sqlx::query_scalar(
            "with taken as (
                 insert into griot.leader as l (region, holder, term, until)
                 values ($1, $2, 1, clock_timestamp() + $3 * interval '1 microsecond')
                 on conflict (region) do update
                 set holder = excluded.holder, term = l.term + 1,
                     until = clock_timestamp() + $3 * interval '1 microsecond'
                 where l.until <= clock_timestamp()
                 returning term
             ), moved as (
                 update griot.cursor c set term = taken.term from taken where c.region = $1
             )
             select term from taken",
        )
        .bind(&self.region)
        .bind(&self.holder)
        .bind(self.lease_micros())
        .fetch_optional(&self.pool)
        .await?;
        Ok(term.map(|term| Tenure::granted(term, asked, self.lease)))
    }

    /// Prolongs `tenure` by the length of the lease from now; `None` when another one has taken over.
    ///
    /// # Errors
    /// PostgreSQL is away, or did not answer before `tenure` ended. The row may have been prolonged nevertheless, which
    /// only makes others wait.
    pub async fn renew(&self, tenure: Tenure) -> Result<Option<Tenure>, Error> {
        let asked = Instant::now();
        let renew = sqlx::query(
            "update griot.leader set until = clock_timestamp() + $4 * interval '1 microsecond'
             where region = $1 and holder = $2 and term = $3",
        )
        .bind(&self.region)
        .bind(&self.holder)
        .bind(tenure.term())
        .bind(self.lease_micros())
        .execute(&self.pool);
        let left = tenure.until().saturating_duration_since(asked);
        let renewed = within("renew the lease", left, async { Ok(renew.await?.rows_affected()) }).await?;
        Ok((renewed > 0).then(|| Tenure::granted(tenure.term(), asked, self.lease)))
    }

    /// Gives the lease up, so that another one takes over at once. Does nothing when one has already.
    ///
    /// # Errors
    /// PostgreSQL is away; the row then runs out by itself.
    pub async fn give_up(&self, term: i64) -> Result<(), Error> {
        let give_up = sqlx::query(
            "update griot.leader set until = clock_timestamp()
             where region = $1 and holder = $2 and term = $3 and until > clock_timestamp()",
        )
        .bind(&self.region)
        .bind(&self.holder)
        .bind(term)
        .execute(&self.pool);
        within("give the lease up", self.lease, async { Ok(give_up.await.map(drop)?) }).await
    }

    /// How long a lease lasts.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// The region's name.
    pub fn region(&self) -> &str {
        &self.region
    }

    fn lease_micros(&self) -> i64 {
        i64::try_from(self.lease.as_micros()).unwrap_or(i64::MAX)
    }
}

async fn within<T>(
    what: &'static str,
    after: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(after, call).await.unwrap_or(Err(Error::Timeout { what, after }))
}
