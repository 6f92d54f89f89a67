//! Short requests: one question on a stream of its own, one answer.

use std::sync::Arc;

use bytes::Bytes;
use sluice_core::effect::{Answer, Delivery, PluginInfo, Taker};
use sluice_core::input::{Admin, Input};
use sluice_log::record::Filter;
use sluice_protocol::control::{
    self, CreateGroup, CreateTopic, DescribeGroup, GetMessage, List, LoadPlugin, Named, Recall, Receive, SettleHandles,
};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::frame::{self, Frame, FrameKind};
use sluice_protocol::ids::{GroupId, MessageId, TopicId};
use sluice_protocol::{limits as wire, names};

use crate::connection::{Client, unexpected};
use crate::delivery;
use crate::frames::{Broken, FrameReader};
use crate::outgoing::Part;
use crate::serving::{Serving, shutting_down};
use crate::shard::Outcome;
use crate::{admission, answers, explain, letters, limits, operate, pages, transactions};

/// Room for the answer to a request that may be answered by much, waiting for it; `None` where the answer is small, or is read only when
/// there are messages. May be cancelled.
pub(crate) async fn room(client: &Client, kind: FrameKind) -> Option<Part> {
    let much = matches!(
        kind,
        FrameKind::ListTopics
            | FrameKind::DescribeTopic
            | FrameKind::ListGroups
            | FrameKind::DescribeGroup
            | FrameKind::ListPlugins
            | FrameKind::GetMessage
            | FrameKind::ListLeases
            | FrameKind::ListDeadLetters
            | FrameKind::ReadMessages
            | FrameKind::ExplainMessage
    );
    match much {
        true => Some(client.outgoing.take().await),
        false => None,
    }
}

/// The frames that answer a request. `part` is the room that they take, which a receive sets.
///
/// # Errors
/// What admission or the core refuses.
pub(crate) async fn answer(
    client: &Arc<Client>,
    kind: FrameKind,
    frame: &Frame,
    reader: &mut FrameReader,
    part: &mut Option<Part>,
) -> Result<Vec<Bytes>, Broken> {
    match kind {
        FrameKind::Receive => return receive(client, message(frame, kind)?, reader, part).await,
        FrameKind::SettleHandles => return settle(client, message(frame, kind)?).await.map(one),
        FrameKind::Recall => return recall(client, message(frame, kind)?).await.map(one),
        FrameKind::Decide => return transactions::decide(client, message(frame, kind)?).await.map(one),
        FrameKind::ListTransactions => return transactions::list(client, message(frame, kind)?).await.map(one),
        FrameKind::GetMessage => return get_message(client, message(frame, kind)?).await,
        FrameKind::ReadMessages => return Ok(pages::answer(client, message(frame, kind)?).await?),
        FrameKind::ExplainMessage => return explain::answer(client, message(frame, kind)?).await.map(one),
        FrameKind::LoadPlugin => return load_plugin(client, message(frame, kind)?).await.map(one),
        FrameKind::ListDeadLetters => return letters::list(client, message(frame, kind)?).await.map(one),
        FrameKind::ResendDeadLetters => return letters::resend(client, message(frame, kind)?).await.map(one),
        FrameKind::DiscardDeadLetters => return letters::discard(client, message(frame, kind)?).await.map(one),
        FrameKind::DescribePlugin => return describe_plugin(client, message(frame, kind)?).await.map(one),
        _ => {}
    }
    let admin = admin(client, kind, frame)?;
    let changes = !matches!(
        kind,
        FrameKind::ListTopics | FrameKind::DescribeTopic | FrameKind::ListGroups | FrameKind::DescribeGroup | FrameKind::ListLeases
    );
    if changes && kind != FrameKind::ListPlugins {
        tracing::info!(client = %client.name, action = ?admin, "administrative action");
    }
    let answer = ask_admin(&client.serving, admin).await?;
    Ok(one(answers::frame_of(answer, |plugin| {
        client.serving.plugins.is_built_in(&plugin.digest)
    })))
}

fn one(frame: Bytes) -> Vec<Bytes> {
    vec![frame]
}

fn message<M: prost::Message + Default>(frame: &Frame, kind: FrameKind) -> Result<M, Refusal> {
    frame.message(kind).map_err(Refusal::from)
}

fn admin(client: &Client, kind: FrameKind, frame: &Frame) -> Result<Admin, Broken> {
    let serving = &client.serving;
    let named = || -> Result<String, Refusal> {
        let Named { name } = message(frame, kind)?;
        names::owner(&name)?;
        Ok(name)
    };
    Ok(match kind {
        FrameKind::CreateTopic => {
            let CreateTopic { name, settings } = message(frame, kind)?;
            names::check_user_name(&name)?;
            Admin::CreateTopic {
                name,
                settings: admission::topic_settings(settings, &serving.config.topics)?,
            }
        }
        FrameKind::DeleteTopic => Admin::DeleteTopic { name: named()? },
        FrameKind::ListTopics => {
            let List { from } = message(frame, kind)?;
            Admin::ListTopics { from: TopicId(from) }
        }
        FrameKind::DescribeTopic => Admin::DescribeTopic { name: named()? },
        FrameKind::CreateGroup => {
            let CreateGroup { name, settings } = message(frame, kind)?;
            names::check_user_name(&name)?;
            Admin::CreateGroup {
                name,
                settings: admission::group_settings(settings, serving.group_defaults.clone())?,
            }
        }
        FrameKind::DeleteGroup => {
            let Named { name } = message(frame, kind)?;
            names::check_group(&name)?;
            Admin::DeleteGroup { name }
        }
        FrameKind::ListGroups => {
            let List { from } = message(frame, kind)?;
            Admin::ListGroups { from: GroupId(from) }
        }
        FrameKind::DescribeGroup => {
            let DescribeGroup { name, from } = message(frame, kind)?;
            names::check_group(&name)?;
            Admin::DescribeGroup { name, from: TopicId(from) }
        }
        FrameKind::Seek => admission::seek(message(frame, kind)?)?,
        FrameKind::ListPlugins => Admin::ListPlugins,
        other => return operate::admin(&client.name, other, frame),
    })
}

pub(crate) async fn ask_admin(serving: &Serving, admin: Admin) -> Result<Answer, Refusal> {
    match serving.shard.ask(|request| Input::Admin { request, admin }).await? {
        Outcome::Answer(answer) => Ok(answer),
        Outcome::Leased(_) => unreachable!("only a receive leases"),
    }
}

async fn settle(client: &Arc<Client>, SettleHandles { handles, action }: SettleHandles) -> Result<Bytes, Broken> {
    admission::handles(&handles)?;
    let action = admission::action(action)?;
    match client
        .serving
        .shard
        .ask(|request| Input::SettleHandles { request, handles, action })
        .await?
    {
        Outcome::Answer(answer) => {
            if let Answer::Settled { results } = &answer {
                client.serving.metrics.refusals.of_results(results);
            }
            Ok(answers::frame_of(answer, |_| false))
        }
        Outcome::Leased(_) => unreachable!("only a receive leases"),
    }
}

async fn recall(client: &Arc<Client>, Recall { handle }: Recall) -> Result<Bytes, Broken> {
    match client.serving.shard.ask(|request| Input::Recall { request, handle }).await? {
        Outcome::Answer(answer) => Ok(answers::frame_of(answer, |_| false)),
        Outcome::Leased(_) => unreachable!("only a receive leases"),
    }
}

/// A long poll. When the client takes the question back, or the broker drains, the core is told, and what comes afterwards returns to the
/// queue at once.
async fn receive(client: &Arc<Client>, ask: Receive, reader: &mut FrameReader, part: &mut Option<Part>) -> Result<Vec<Bytes>, Broken> {
    let serving = &client.serving;
    let max = match u16::try_from(ask.max) {
        Ok(max @ 1..=32) => max,
        Ok(_) | Err(_) => {
            let text = format!("a receive takes 1 to {} messages, not {}", wire::RECEIVE_MESSAGES_MAX, ask.max);
            return Err(Refusal::new(ErrorCode::LimitExceeded, text).into());
        }
    };
    if ask.wait_ms > wire::RECEIVE_WAIT_MS_MAX {
        let text = format!("a receive waits up to {} ms, not {}", wire::RECEIVE_WAIT_MS_MAX, ask.wait_ms);
        return Err(Refusal::new(ErrorCode::LimitExceeded, text).into());
    }
    let invisible_ms = admission::invisible_ms(ask.invisible_ms, limits::RECEIVE_INVISIBLE_MS_DEFAULT)?;
    let consume = admission::consume(ask.topic, ask.group, ask.member, ask.filter, ask.start, &client.name)?;
    check_filter(serving, &consume.filter).await?;
    let (connection, wait_ms) = (client.id, ask.wait_ms);
    let asked = serving.shard.ask(|request| Input::Receive {
        request,
        connection,
        ask: consume,
        max,
        wait_ms,
        invisible_ms,
    });
    let mut draining = serving.draining();
    let outcome = tokio::select! {
        outcome = asked => outcome?,
        broken = taken_back(reader) => return Err(broken),
        () = draining.begun() => return Err(shutting_down().into()),
    };
    match outcome {
        Outcome::Answer(answer) => Ok(one(answers::frame_of(answer, |_| false))),
        Outcome::Leased(delivery) => {
            *part = Some(client.outgoing.take().await);
            received(serving, delivery).await.map_err(Broken::from)
        }
    }
}

/// Waits until the client resets the stream or sends what it may not; forever when it only finished its side. May be cancelled.
async fn taken_back(reader: &mut FrameReader) -> Broken {
    match reader.next().await {
        Ok(Some((kind, _))) => unexpected(kind),
        Ok(None) => std::future::pending().await,
        Err(broken) => broken,
    }
}

async fn received(serving: &Serving, delivery: Delivery) -> Result<Vec<Bytes>, Refusal> {
    let Taker::Receive { handles, .. } = delivery.taker else {
        unreachable!("a receive's outcome is for a receive")
    };
    delivery::received(serving, delivery.cursor.queue, delivery.leases, handles).await
}

async fn get_message(client: &Arc<Client>, GetMessage { id }: GetMessage) -> Result<Vec<Bytes>, Broken> {
    let serving = &client.serving;
    let id: MessageId = id.parse().map_err(|_| Refusal::plain(ErrorCode::BadMessageId))?;
    let no_such = || Refusal::plain(ErrorCode::NoSuchMessage);
    let (queue, offset) = delivery::find(serving, id).await?.ok_or_else(no_such)?;
    // The topic's name is the core's to know: an index entry of a deleted topic finds none.
    let Answer::TopicName { name } = ask_admin(serving, Admin::NameTopic { topic: queue.topic }).await? else {
        unreachable!("the core answers a question for a name with a name");
    };
    Ok(delivery::found(serving, name.ok_or_else(no_such)?, queue, offset).await?)
}

async fn load_plugin(client: &Arc<Client>, load: LoadPlugin) -> Result<Bytes, Broken> {
    let serving = &client.serving;
    let on_failure = admission::on_failure(load.on_failure)?;
    let LoadPlugin { name, module, limits, .. } = load;
    names::check_user_name(&name)?;
    let limits = admission::plugin_limits(limits, serving.plugins.defaults())?;
    let alone = serving.plugins.alone().await;
    let digest = serving.plugins.store(module).await?;
    tracing::info!(client = %client.name, plugin = %name, %digest, "a plugin is bound");
    ask_admin(
        serving,
        Admin::BindPlugin {
            name: name.clone(),
            digest,
            limits,
            on_failure,
        },
    )
    .await?;
    serving.plugins.bound(&list_plugins(serving).await?);
    drop(alone);
    describe_plugin(client, Named { name }).await
}

async fn list_plugins(serving: &Serving) -> Result<Vec<PluginInfo>, Refusal> {
    match ask_admin(serving, Admin::ListPlugins).await? {
        Answer::Plugins { plugins } => Ok(plugins),
        _ => unreachable!("the core answers a list of plugins with plugins"),
    }
}

async fn describe_plugin(client: &Arc<Client>, Named { name }: Named) -> Result<Bytes, Broken> {
    names::check_user_name(&name)?;
    let Some(plugin) = list_plugins(&client.serving).await?.into_iter().find(|plugin| plugin.name == name) else {
        return Err(Refusal::plain(ErrorCode::NoSuchPlugin).into());
    };
    let info: control::PluginInfo = answers::plugin_info(&plugin, client.serving.plugins.is_built_in(&plugin.digest));
    Ok(frame::message(FrameKind::Plugin, &info))
}

/// Has the expression compiled by the version that is bound now, before the core hears of it.
///
/// # Errors
/// `NoSuchPlugin`, `BadExpression` with its place.
pub(crate) async fn check_filter(serving: &Serving, filter: &Filter) -> Result<(), Refusal> {
    match filter {
        Filter::All => Ok(()),
        Filter::Plugin { plugin, expression } => serving.plugins.check(plugin, expression).await,
    }
}
