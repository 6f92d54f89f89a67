//! Filters, dead letters, replay and retention together with one another; `docs/composition.md` has a row for each test.

use sluice_client::admin::SeekTo;
use sluice_client::{Filter, NewMessage};
use sluice_end_to_end::scene::{Scene, TOPIC, body, colored, giving_up_after, only, strict};

#[tokio::test(flavor = "multi_thread")]
async fn filter_with_dead_letter() {
    let scene = Scene::new().await;
    scene.group("g", giving_up_after(1, strict())).await;
    scene.send(colored("blue", "rejected")).await;
    scene.send(colored("red", "broken")).await;
    let red = scene.reader("g", only("red"));
    red.nack(red.lease().await).await;
    let letters = scene.letters("g", 1).await;
    assert_eq!(letters[0].origin_offset, 1, "what is rejected is no dead letter");
    assert_eq!(
        scene.morgue("g", only("red")).take(1).await,
        ["broken"],
        "the copy keeps what filters read"
    );
    scene.client.resend_dead_letters("g", 0, None, 1).await.expect("it is sent back");
    let green = scene.reader("g", only("green"));
    let again = green.lease().await;
    assert_eq!((body(&again).as_str(), again.attempt()), ("broken", 2), "it keeps its verdict");
    green.ack(again).await;
    green.is_done().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_with_replay() {
    let scene = Scene::new().await;
    for (color, body) in [("red", "1"), ("blue", "2"), ("red", "3"), ("blue", "4")] {
        scene.send(colored(color, body)).await;
    }
    let red = scene.reader("g", only("red"));
    assert_eq!(red.take(2).await, ["1", "3"]);
    red.is_done().await;
    let blue = scene.reader("g", only("blue"));
    blue.is_done().await;
    scene.client.seek("g", TOPIC, None, SeekTo::Earliest).await.expect("it begins anew");
    assert_eq!(blue.take(2).await, ["2", "4"], "the new pass is judged by what rules now");
    blue.is_done().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_with_retention() {
    let scene = Scene::forgetful().await;
    scene.send(colored("red", "old and red")).await;
    scene.send(colored("blue", "old and blue")).await;
    scene.forget().await;
    scene.send(colored("blue", "blue")).await;
    scene.send(colored("red", "red")).await;
    for (group, filter) in [("sql", only("red")), ("tag", Filter::Tag("red".to_owned()))] {
        let reader = scene.reader(group, filter);
        assert_eq!(reader.take(1).await, ["red"], "what is gone is not judged");
        reader.is_done().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letter_with_replay() {
    let scene = Scene::new().await;
    scene.group("g", giving_up_after(1, strict())).await;
    let reader = scene.reader("g", Filter::All);
    for (body, letters) in [("broken", 1), ("broken, too", 2)] {
        scene.send(NewMessage::new(body)).await;
        reader.nack(reader.lease().await).await;
        scene.letters("g", letters).await;
    }
    scene.client.seek("g", TOPIC, None, SeekTo::Earliest).await.expect("it begins anew");
    let dealt = scene
        .client
        .resend_dead_letters("g", 0, None, 1)
        .await
        .expect("the replay brings it");
    assert_eq!((dealt.sent_back, dealt.under_way), (0, 1), "it is before the group anyway");
    for expected in ["broken", "broken, too"] {
        let replayed = reader.lease().await;
        assert_eq!((body(&replayed).as_str(), replayed.attempt()), (expected, 1), "a pass counts anew");
        reader.ack(replayed).await;
    }
    let left = scene.client.dead_letters("g", 0, None, 9).await.expect("the group is there");
    assert_eq!(left.len(), 1, "a replay does not deal with letters");
    let dealt = scene.client.resend_dead_letters("g", 0, None, 9).await.expect("it is sent back");
    assert_eq!(dealt.sent_back, 1);
    let again = reader.lease().await;
    assert_eq!(
        (body(&again).as_str(), again.attempt()),
        ("broken, too", 2),
        "who sends back means it"
    );
    reader.ack(again).await;
    reader.is_done().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letter_with_retention() {
    let scene = Scene::forgetful().await;
    scene.group("g", giving_up_after(1, strict())).await;
    scene.send(NewMessage::new("broken")).await;
    let reader = scene.reader("g", Filter::All);
    reader.nack(reader.lease().await).await;
    scene.letters("g", 1).await;
    scene.forget().await;
    let dealt = scene.client.resend_dead_letters("g", 0, None, 1).await.expect("it is asked");
    assert_eq!((dealt.sent_back, dealt.gone), (0, 1), "its origin is gone");
    assert_eq!(
        scene.letters("g", 1).await.len(),
        1,
        "the letter is left, and the copy outlives its origin"
    );
    assert_eq!(scene.morgue("g", Filter::All).take(1).await, ["broken"]);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_with_retention() {
    let scene = Scene::forgetful().await;
    for body in ["1", "2", "3"] {
        scene.send(NewMessage::new(body)).await;
    }
    let reader = scene.reader("g", Filter::All);
    assert_eq!(reader.take(3).await, ["1", "2", "3"]);
    scene.forget().await;
    scene.send(NewMessage::new("kept")).await;
    assert_eq!(reader.take(1).await, ["kept"]);
    for to in [SeekTo::Earliest, SeekTo::Offset(0), SeekTo::Time(0)] {
        scene.client.seek("g", TOPIC, None, to).await.expect("it begins anew");
        assert_eq!(reader.take(1).await, ["kept"], "{to:?} begins at the first that is kept");
        reader.is_done().await;
    }
    scene.end().await;
}
