//! CONNECT (RFC 9110 9.3.6): an application asks for a tunnel to a destination, and gets one through the upstream that
//! serves it, once that has proven itself.
//!
//! What flows in the tunnel is the application's: plain bytes, or TLS of its own that ends at the service behind the far
//! sidecar. The answer 200 is given after the verdict and never before.

use std::sync::Arc;

use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::counter::Counter;

use super::Connection;
use super::answer::Problem;
use super::body::{self, Fate};
use super::fields;
use super::pool::Failure;
use super::request::{Answer, Record};
use super::view::View;
use crate::proxy::admit::Ground;
use crate::proxy::choice::Wanted;
use crate::proxy::now::still_trusted;
use crate::proxy::plan::Upstream;
use crate::proxy::reach::{Reached, Unreached, reach};
use crate::proxy::record::{self, About};
use crate::proxy::standing;
use crate::proxy::tcp::{End, Forwarded, Life, forward};
use crate::refusal::Denied;

/// Opens a tunnel, or says why not.
pub(super) async fn serve(
    (connection, view): (&Arc<Connection>, &View),
    mut parts: Parts,
    authority: &str,
    record: &mut Record,
) -> Result<Response<Answer>, Problem> {
    let site = &view.site;
    let around = &site.around;
    let Some(wanted) = Wanted::read(authority) else {
        return Err(Problem::request(StatusCode::BAD_REQUEST, "CONNECT to what is no HOST:PORT"));
    };
    let upstream =
        site.plan.destinations.lead(&wanted).map_err(|denied| refused(connection, End::Downstream, &wanted, Problem::forbidden(&denied), &denied))?;
    record.to(&upstream.name);
    let Some(on) = parts.extensions.remove::<OnUpgrade>() else {
        return Err(Problem::request(StatusCode::BAD_REQUEST, "a connection that cannot become a tunnel"));
    };
    if fields::announce_body(&parts.headers) {
        return Err(Problem::request(StatusCode::BAD_REQUEST, "CONNECT with a body"));
    }
    connection.patient()?;
    let Some(held) = around.sockets.upstream() else {
        around.parts.metrics.limit_rejected(&around.listener, "descriptors");
        return Err(Problem::of(&Failure::Full, &Fate::default()));
    };
    // Boxed: the handshakes' state is large and the tunnel outlives it.
    let reached = match Box::pin(reach(around.handshakes(), (upstream, site.shared.find(upstream)), &connection.admitted, Some(held))).await {
        Ok(reached) => reached,
        Err(Unreached::Refused(target, denied)) => {
            record.at(target.unwrap_or_default());
            let problem = Problem::of(&Failure::Refused(denied.clone()), &Fate::default());
            return Err(refused(connection, End::Upstream, &wanted, problem, &denied));
        }
        Err(Unreached::Unreachable(tried)) => {
            let wanted = wanted.to_string();
            let about = About { listener: &around.listener, peer: &connection.from, wanted: &wanted, upstream: &upstream.name, ..About::default() };
            record::unreachable(&about, Some(&connection.pace), &tried);
            return Err(Problem::of(&Failure::Unreachable(tried), &Fate::default()));
        }
    };
    record.at(reached.target.clone());
    connection.patient()?;
    if parts.version != Version::HTTP_2 {
        connection.gauge.release();
    }
    tunnel(connection, on, reached, (wanted, Arc::clone(upstream)));
    Ok(Response::new(Answer::Own(body::empty())))
}

/// Notes a refusal where operators look for it.
fn refused(connection: &Connection, side: End, wanted: &Wanted, problem: Problem, denied: &Denied) -> Problem {
    let around = &connection.around;
    let wanted = wanted.to_string();
    let about = About { listener: &around.listener, peer: &connection.from, wanted: &wanted, ..About::default() };
    record::refused(&around.parts.metrics, &about, Some(&connection.pace), side, denied);
    problem
}

/// Forwards in the background, as long as the far end's verdict holds; the connection waits for it.
fn tunnel(connection: &Arc<Connection>, downstream: OnUpgrade, reached: Reached, (wanted, upstream): (Wanted, Arc<Upstream>)) {
    let end = reached.there.end().map_or(connection.end, |end| connection.end.min(end.into()));
    let life = Life { idle: connection.around.limits.idle, end };
    let shared = Arc::clone(connection);
    connection.spawn(async move {
        let around = &shared.around;
        let Reached { target, there, stream: mut far_end } = reached;
        let Ok(downstream) = downstream.await else { return };
        let mut downstream = TokioIo::new(downstream);
        // The bytes are counted on the wire.
        let (mut forwarded, uncounted) = (Forwarded::default(), Counter::default());
        let ended = tokio::select! {
            biased;
            denied = shared.overruled(|view| still_trusted(&upstream, view.site.plan.destinations.lead(&wanted)?)) => {
                let wanted = wanted.to_string();
                let about = About { listener: &around.listener, peer: &shared.from, wanted: &wanted, address: &target, ground: there.ground(), forwarded: Some(forwarded), ..About::default() };
                return record::withdrawn(&around.parts.metrics, &about, End::Downstream, &denied);
            }
            ended = there.ended(&around.parts.clock) => match ended {
                standing::Ended::Expired => "at the end of its permitted life".to_owned(),
                standing::Ended::Withdrawn(denied) => {
                    let wanted = wanted.to_string();
                    let about = About { listener: &around.listener, peer: &shared.from, wanted: &wanted, address: &target, ground: there.ground(), forwarded: Some(forwarded), ..About::default() };
                    return record::withdrawn(&around.parts.metrics, &about, End::Upstream, &denied);
                }
            },
            ended = forward((&mut downstream, &mut far_end), life, (&uncounted, &uncounted), &mut forwarded) => {
                if matches!(ended, crate::proxy::tcp::Ended::Finished) {
                    far_end.finish();
                }
                ended.to_string()
            }
        };
        let (tier, entry) = there.ground().map(Ground::told).unwrap_or_default();
        tracing::info!(
            target: "connection", event = "forwarded", listener = around.listener, peer = shared.from, wanted = %wanted, address = target, tier, entry,
            bytes_received = forwarded.up, bytes_sent = forwarded.down, ended,
        );
    });
}
