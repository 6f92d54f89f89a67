//! Ordered groups together with each other kind but delay and priority; `docs/composition.md` has a row for each test.

use sluice_client::admin::SeekTo;
use sluice_client::{ErrorCode, Filter};
use sluice_end_to_end::scene::{Scene, TOPIC, body, colored, giving_up_after, of_group, only, ordered};

#[tokio::test(flavor = "multi_thread")]
async fn ordered_with_transaction() {
    let scene = Scene::new().await;
    scene.group("g", ordered()).await;
    let undecided = scene.prepare(of_group("a", "undecided")).await;
    let second = scene.prepare(of_group("a", "second")).await;
    scene.send(of_group("a", "first")).await;
    second.commit().await.expect("it is decided");
    scene.stored(2).await;
    scene.send(of_group("a", "third")).await;
    let reader = scene.reader("g", Filter::All);
    let expected = ["first", "second", "third"];
    assert_eq!(
        reader.take(3).await,
        expected,
        "its place is that of its commit, and who is undecided holds nobody"
    );
    reader.is_done().await;
    undecided.commit().await.expect("it is decided");
    assert_eq!(reader.take(1).await, ["undecided"]);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ordered_with_filter() {
    let scene = Scene::new().await;
    let colors = |group: &str| {
        [("red", "1"), ("blue", "2"), ("red", "3"), ("blue", "4"), ("red", "5")].map(|(color, body)| colored(color, body).group(group))
    };
    for message in colors("a") {
        scene.send(message).await;
    }
    for (group, filter) in [("sql", only("red")), ("tag", Filter::Tag("red".to_owned()))] {
        scene.group(group, ordered()).await;
        let reader = scene.reader(group, filter);
        let mut first = reader.lease_all(32).await;
        assert_eq!(first.iter().map(body).collect::<Vec<_>>(), ["1"], "one after the other");
        reader.ack(first.remove(0)).await;
        assert_eq!(reader.take(2).await, ["3", "5"], "what is rejected holds nobody");
        reader.is_done().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ordered_with_dead_letter() {
    let scene = Scene::new().await;
    scene.group("g", giving_up_after(2, ordered())).await;
    for message in [of_group("a", "broken"), of_group("a", "next"), of_group("b", "other")] {
        scene.send(message).await;
    }
    let reader = scene.reader("g", Filter::All);
    let mut heads = reader.lease_all(32).await;
    assert_eq!(heads.iter().map(body).collect::<Vec<_>>(), ["broken", "other"]);
    reader.ack(heads.remove(1)).await;
    reader.nack(heads.remove(0)).await;
    let again = reader.lease().await;
    assert_eq!(
        (body(&again).as_str(), again.attempt()),
        ("broken", 2),
        "a redelivery comes before the next"
    );
    reader.nack(again).await;
    assert_eq!(reader.take(1).await, ["next"]);
    let letters = scene.client.dead_letters("g", 0, None, 9).await.expect("the group is there");
    assert_eq!(
        (letters.len(), letters[0].attempts),
        (1, 2),
        "the next went out when the copy was durable"
    );
    let refused = scene
        .client
        .resend_dead_letters("g", 0, None, 1)
        .await
        .expect_err("it would come too late");
    assert_eq!(refused.code(), Some(ErrorCode::NotOffered));
    assert_eq!(scene.morgue("g", Filter::All).take(1).await, ["broken"], "it can be read");
    let dealt = scene
        .client
        .discard_dead_letters("g", 0, None, 1)
        .await
        .expect("it is taken off the list");
    assert_eq!(dealt.discarded, 1);
    reader.is_done().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ordered_with_replay() {
    let scene = Scene::new().await;
    scene.group("g", ordered()).await;
    for message in [of_group("a", "a1"), of_group("a", "a2"), of_group("b", "b1"), of_group("a", "a3")] {
        scene.send(message).await;
    }
    let reader = scene.reader("g", Filter::All);
    assert_eq!(reader.take(1).await, ["a1"]);
    let held = reader.lease().await;
    assert_eq!(body(&held), "a2");
    scene.client.seek("g", TOPIC, None, SeekTo::Earliest).await.expect("it begins anew");
    assert!(!reader.may_ack(held).await, "a lease of the pass before is void");
    let mut heads = reader.lease_all(32).await;
    assert_eq!(
        heads.iter().map(body).collect::<Vec<_>>(),
        ["a1", "b1"],
        "who was handed out holds nobody"
    );
    reader.ack(heads.remove(0)).await;
    assert_eq!(reader.take(2).await, ["a2", "a3"], "the order is that of the first time");
    reader.ack(heads.remove(0)).await;
    reader.is_done().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ordered_with_retention() {
    let scene = Scene::forgetful().await;
    scene.group("g", ordered()).await;
    scene.send(of_group("a", "held")).await;
    scene.send(of_group("a", "parked behind it")).await;
    let reader = scene.reader("g", Filter::All);
    let held = reader.lease().await;
    assert_eq!(body(&held), "held");
    scene.forget().await;
    scene.send(of_group("a", "new")).await;
    assert_eq!(reader.take(1).await, ["new"], "what is gone holds nobody");
    assert!(!reader.may_ack(held).await, "its lease went with it");
    reader.is_done().await;
    scene.end().await;
}
