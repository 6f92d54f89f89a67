//! Priority together with each other kind but delay; `docs/composition.md` has a row for each test.

use sluice_client::admin::SeekTo;
use sluice_client::{Filter, NewMessage};
use sluice_end_to_end::scene::{Scene, TOPIC, colored, giving_up_after, of_group, only, ordered, strict};

#[tokio::test(flavor = "multi_thread")]
async fn priority_with_ordered() {
    let scene = Scene::new().await;
    scene.group("g", ordered()).await;
    scene.send(of_group("a", "a, first")).await;
    scene.send(of_group("a", "a, second").priority(9)).await;
    scene.send(of_group("b", "b").priority(5)).await;
    scene.send(NewMessage::new("of none").priority(7)).await;
    let reader = scene.reader("g", Filter::All);
    let expected = ["of none", "b", "a, first", "a, second"];
    assert_eq!(
        reader.take(4).await,
        expected,
        "heads compete, and none passes its own message group"
    );
    reader.is_done().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn priority_with_transaction() {
    let scene = Scene::new().await;
    scene.group("g", strict()).await;
    let urgent = scene.prepare(NewMessage::new("urgent").priority(9)).await;
    let undecided = scene.prepare(NewMessage::new("undecided").priority(9)).await;
    scene.send(NewMessage::new("plain")).await;
    scene.send(NewMessage::new("middle").priority(5)).await;
    urgent.commit().await.expect("it is decided");
    scene.stored(3).await;
    let reader = scene.reader("g", Filter::All);
    assert_eq!(
        reader.take(3).await,
        ["urgent", "middle", "plain"],
        "once committed the highest goes first"
    );
    reader.is_done().await;
    undecided.roll_back().await.expect("it is decided");
    reader.is_done().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn priority_with_filter() {
    let scene = Scene::new().await;
    for group in ["sql", "tag"] {
        scene.group(group, strict()).await;
    }
    scene.send(colored("red", "low")).await;
    scene.send(colored("blue", "rejected").priority(9)).await;
    scene.send(colored("red", "high").priority(9)).await;
    scene.send(colored("red", "middle").priority(5)).await;
    for (group, filter) in [("sql", only("red")), ("tag", Filter::Tag("red".to_owned()))] {
        let reader = scene.reader(group, filter);
        assert_eq!(
            reader.take(3).await,
            ["high", "middle", "low"],
            "of those that pass the highest goes first"
        );
        reader.is_done().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn priority_with_dead_letter() {
    let scene = Scene::new().await;
    scene.group("g", giving_up_after(1, strict())).await;
    scene.group("morgue", strict()).await;
    let reader = scene.reader("g", Filter::All);
    for (body, priority, letters) in [("low", 0, 1), ("high", 9, 2)] {
        scene.send(NewMessage::new(body).priority(priority)).await;
        reader.nack(reader.lease().await).await;
        scene.letters("g", letters).await;
    }
    let morgue = scene.morgue("g", Filter::All);
    assert_eq!(morgue.take(2).await, ["high", "low"], "the copies keep their priorities");
    scene.send(NewMessage::new("new").priority(5)).await;
    let dealt = scene.client.resend_dead_letters("g", 0, None, 2).await.expect("they are sent back");
    assert_eq!(dealt.sent_back, 2);
    assert_eq!(
        reader.take(3).await,
        ["high", "new", "low"],
        "what is sent back goes by its priority"
    );
    reader.is_done().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn priority_with_replay() {
    let scene = Scene::new().await;
    scene.group("g", strict()).await;
    for (body, priority) in [("low", 0), ("high", 9), ("middle", 5), ("high again", 9)] {
        scene.send(NewMessage::new(body).priority(priority)).await;
    }
    let reader = scene.reader("g", Filter::All);
    assert_eq!(reader.take(3).await, ["high", "high again", "middle"]);
    scene
        .client
        .seek("g", TOPIC, None, SeekTo::Offset(1))
        .await
        .expect("it begins anew");
    assert_eq!(reader.take(3).await, ["high", "high again", "middle"], "every lane begins anew");
    reader.is_done().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn priority_with_retention() {
    let scene = Scene::forgetful().await;
    scene.group("g", strict()).await;
    let reader = scene.reader("g", Filter::All);
    for (body, priority) in [("old and low", 0), ("old and high", 9), ("old and higher", 9)] {
        scene.send(NewMessage::new(body).priority(priority)).await;
    }
    assert_eq!(reader.take(1).await, ["old and high"]);
    scene.forget().await;
    for (body, priority) in [("low", 0), ("high", 9)] {
        scene.send(NewMessage::new(body).priority(priority)).await;
    }
    assert_eq!(reader.take(2).await, ["high", "low"], "age takes them whatever their priority");
    reader.is_done().await;
    scene.end().await;
}
