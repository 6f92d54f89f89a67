//! Delay together with each other kind; `docs/composition.md` has a row for each test.

use std::time::Duration;

use sluice_client::admin::SeekTo;
use sluice_client::{ErrorCode, Filter, NewMessage};
use sluice_end_to_end::scene::{Scene, TOPIC, body, colored, giving_up_after, of_group, only, ordered, strict};

const SOON: Duration = Duration::from_millis(200);
const LATER: Duration = Duration::from_secs(3_600);

#[tokio::test(flavor = "multi_thread")]
async fn delay_with_priority() {
    let scene = Scene::new().await;
    scene.group("g", strict()).await;
    scene.send(NewMessage::new("waits").priority(9).deliver_after(LATER)).await;
    scene.send(NewMessage::new("late and low").deliver_after(SOON)).await;
    scene.send(NewMessage::new("late and high").priority(9).deliver_after(SOON)).await;
    scene.send(NewMessage::new("middle").priority(5)).await;
    scene.stored(3).await;
    let reader = scene.reader("g", Filter::All);
    let expected = ["late and high", "middle", "late and low"];
    assert_eq!(reader.take(3).await, expected, "its priority counts from its release");
    reader.is_done().await;
    assert_eq!(scene.topic().await.delayed, 1, "the highest of them waits all the same");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delay_with_ordered() {
    let scene = Scene::new().await;
    scene.group("g", ordered()).await;
    scene.send(of_group("a", "waits").deliver_after(LATER)).await;
    scene.send(of_group("a", "third").priority(9).deliver_after(SOON)).await;
    scene.send(of_group("a", "first")).await;
    scene.send(of_group("a", "second")).await;
    scene.stored(3).await;
    let reader = scene.reader("g", Filter::All);
    let mut got = reader.lease_all(32).await;
    assert_eq!(got.iter().map(body).collect::<Vec<_>>(), ["first"], "one after the other");
    reader.ack(got.remove(0)).await;
    assert_eq!(reader.take(2).await, ["second", "third"], "its place is that of its release");
    reader.is_done().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delay_with_transaction() {
    let scene = Scene::new().await;
    let late = scene.prepare(NewMessage::new("late").deliver_after(SOON)).await;
    let past = scene.prepare(NewMessage::new("past").deliver_after(Duration::from_millis(1))).await;
    let never = scene
        .prepare(NewMessage::new("never").deliver_after(Duration::from_millis(1)))
        .await;
    let recalled = scene.prepare(NewMessage::new("recalled").deliver_after(LATER)).await;
    let recall = recalled.receipt().delayed.clone().expect("it is delayed").recall;
    let refused = scene.client.recall(&recall).await.expect_err("it is not committed");
    assert_eq!(refused.code(), Some(ErrorCode::NotWaiting));
    never.roll_back().await.expect("it is decided");
    past.commit().await.expect("it is decided");
    late.commit().await.expect("it is decided");
    recalled.commit().await.expect("it is decided");
    scene.client.recall(&recall).await.expect("it waits for its time now");
    let reader = scene.reader("g", Filter::All);
    assert_eq!(reader.take(2).await, ["past", "late"], "first its commit, then its time");
    reader.is_done().await;
    let topic = scene.topic().await;
    assert_eq!((topic.delayed, topic.undecided), (0, 0));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delay_with_filter() {
    let scene = Scene::new().await;
    scene.send(colored("blue", "late and blue").deliver_after(SOON)).await;
    scene.send(colored("red", "late and red").deliver_after(SOON)).await;
    scene.send(colored("red", "red")).await;
    for (group, filter) in [("sql", only("red")), ("tag", Filter::Tag("red".to_owned()))] {
        let reader = scene.reader(group, filter);
        assert_eq!(reader.take(2).await, ["red", "late and red"], "it is judged once it is released");
        reader.is_done().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delay_with_dead_letter() {
    let scene = Scene::new().await;
    scene.group("g", giving_up_after(1, strict())).await;
    let sent = scene.send(NewMessage::new("late").key("k").deliver_after(SOON)).await;
    let reader = scene.reader("g", Filter::All);
    reader.nack(reader.lease().await).await;
    let letters = scene.letters("g", 1).await;
    assert_eq!((&letters[0].id, &letters[0].keys), (&sent.id.to_string(), &vec!["k".to_owned()]));
    let morgue = scene.morgue("g", Filter::All);
    let copy = morgue.lease().await;
    let was_due_ms = sent.delayed.expect("it was delayed").deliver_at_ms;
    assert_eq!(
        copy.deliver_at_ms(),
        Some(was_due_ms),
        "the copy says when it was due, and waits for nothing"
    );
    let dealt = scene.client.resend_dead_letters("g", 0, None, 1).await.expect("it is sent back");
    assert_eq!(dealt.sent_back, 1);
    let again = reader.lease().await;
    assert_eq!((again.id(), again.attempt()), (sent.id, 2), "its time is over, so it comes at once");
    reader.ack(again).await;
    reader.is_done().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delay_with_replay() {
    let scene = Scene::new().await;
    scene.send(NewMessage::new("waits").deliver_after(LATER)).await;
    scene.send(NewMessage::new("late").deliver_after(SOON)).await;
    scene.send(NewMessage::new("plain")).await;
    let reader = scene.reader("g", Filter::All);
    for _pass in 0..2 {
        assert_eq!(
            reader.take(2).await,
            ["plain", "late"],
            "what was released is replayed in its place"
        );
        reader.is_done().await;
        scene.client.seek("g", TOPIC, None, SeekTo::Earliest).await.expect("it begins anew");
    }
    assert_eq!(scene.topic().await.delayed, 1, "what waits is not replayed");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delay_with_retention() {
    let scene = Scene::forgetful().await;
    let waiting = scene.send(NewMessage::new("waits").deliver_after(Duration::from_secs(1))).await;
    let recalled = scene.send(NewMessage::new("recalled").deliver_after(LATER)).await;
    scene.send(NewMessage::new("old")).await;
    scene.forget().await;
    let recall = recalled.delayed.expect("it is delayed").recall;
    scene.client.recall(&recall).await.expect("it was kept, too");
    let reader = scene.reader("g", Filter::All);
    let message = reader.lease().await;
    assert_eq!((body(&message).as_str(), message.id()), ("waits", waiting.id));
    reader.ack(message).await;
    reader.is_done().await;
    scene.end().await;
}
