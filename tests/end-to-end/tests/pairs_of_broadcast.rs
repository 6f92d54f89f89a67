//! Broadcast groups together with each other kind; `docs/composition.md` has a row for each test.

use std::time::Duration;

use sluice_client::admin::{GroupSettings, SeekTo};
use sluice_client::{Filter, NewMessage};
use sluice_end_to_end::scene::{Reader, Scene, TOPIC, body, colored, giving_up_after, of_group, only, ordered, strict};

const SOON: Duration = Duration::from_millis(200);

/// These settings for a group of which each member gets all.
fn broadcast(settings: GroupSettings) -> GroupSettings {
    GroupSettings {
        broadcast: true,
        ..settings
    }
}

/// Two members of the group, both there from now on.
async fn two(scene: &Scene, filter: Filter) -> [Reader<'_>; 2] {
    let members = ["one", "two"].map(|name| scene.member("g", name, filter.clone()));
    for member in &members {
        member.is_done().await;
    }
    members
}

#[tokio::test(flavor = "multi_thread")]
async fn delay_with_broadcast() {
    let scene = Scene::new().await;
    scene.group("g", broadcast(strict())).await;
    let members = two(&scene, Filter::All).await;
    scene.send(NewMessage::new("late").deliver_after(SOON)).await;
    for member in &members {
        assert_eq!(member.take(1).await, ["late"], "each gets it at its time");
        member.is_done().await;
    }
    scene.member("g", "three", Filter::All).is_done().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn priority_with_broadcast() {
    let scene = Scene::new().await;
    scene.group("g", broadcast(strict())).await;
    let members = two(&scene, Filter::All).await;
    for (body, priority) in [("low", 0), ("high", 9), ("middle", 5)] {
        scene.send(NewMessage::new(body).priority(priority)).await;
    }
    for member in &members {
        assert_eq!(member.take(3).await, ["high", "middle", "low"], "for each the highest goes first");
        member.is_done().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ordered_with_broadcast() {
    let scene = Scene::new().await;
    scene.group("g", broadcast(ordered())).await;
    let [one, two] = two(&scene, Filter::All).await;
    for body in ["first", "second", "third"] {
        scene.send(of_group("a", body)).await;
    }
    let mut held = one.lease_all(32).await;
    assert_eq!(held.iter().map(body).collect::<Vec<_>>(), ["first"], "one after the other");
    assert_eq!(two.take(3).await, ["first", "second", "third"], "what one holds holds nobody else");
    one.ack(held.remove(0)).await;
    assert_eq!(one.take(2).await, ["second", "third"], "each gets them in their order");
    for member in [&one, &two] {
        member.is_done().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_with_broadcast() {
    let scene = Scene::new().await;
    scene.group("g", broadcast(strict())).await;
    let committed = scene.prepare(NewMessage::new("committed")).await;
    let rolled_back = scene.prepare(NewMessage::new("rolled back")).await;
    let members = two(&scene, Filter::All).await;
    rolled_back.roll_back().await.expect("it is decided");
    committed.commit().await.expect("it is decided");
    for member in &members {
        assert_eq!(
            member.take(1).await,
            ["committed"],
            "each that was there when it was committed gets it, once"
        );
        member.is_done().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_with_broadcast() {
    let scene = Scene::new().await;
    scene.group("g", broadcast(strict())).await;
    let members = two(&scene, only("red")).await;
    for (color, body) in [("blue", "1"), ("red", "2"), ("blue", "3"), ("red", "4")] {
        scene.send(colored(color, body)).await;
    }
    for member in &members {
        assert_eq!(member.take(2).await, ["2", "4"], "each gets all that the group's filter lets pass");
        member.is_done().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letter_with_broadcast() {
    let scene = Scene::new().await;
    scene.group("g", broadcast(giving_up_after(1, strict()))).await;
    let [one, two] = two(&scene, Filter::All).await;
    let sent = scene.send(NewMessage::new("broken for one")).await;
    one.nack(one.lease().await).await;
    assert_eq!(two.take(1).await, ["broken for one"]);
    let letters = scene.letters("g", 1).await;
    assert_eq!(
        (letters.len(), letters[0].group.as_str()),
        (1, "g/one"),
        "the letter says which member gave it up"
    );
    let dealt = scene.client.resend_dead_letters("g", 0, None, 1).await.expect("it is sent back");
    assert_eq!(dealt.sent_back, 1);
    let again = one.lease().await;
    assert_eq!((again.id(), again.attempt()), (sent.id, 2), "it comes back to that member");
    one.ack(again).await;
    for member in [&one, &two] {
        member.is_done().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_with_broadcast() {
    let scene = Scene::new().await;
    scene.group("g", broadcast(strict())).await;
    scene.send(NewMessage::new("before")).await;
    let [one, two] = two(&scene, Filter::All).await;
    scene.send(NewMessage::new("after")).await;
    assert_eq!(one.take(1).await, ["after"]);
    let held = two.lease().await;
    scene.client.seek("g", TOPIC, None, SeekTo::Earliest).await.expect("it begins anew");
    assert!(!two.may_ack(held).await, "a lease of the pass before is void");
    for member in [&one, &two] {
        assert_eq!(member.take(2).await, ["before", "after"], "a seek begins a new pass for each");
        member.is_done().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broadcast_with_retention() {
    let scene = Scene::forgetful().await;
    scene.group("g", broadcast(strict())).await;
    let [one, two] = two(&scene, Filter::All).await;
    scene.send(NewMessage::new("old")).await;
    assert_eq!(one.take(1).await, ["old"]);
    scene.forget().await;
    scene.send(NewMessage::new("new")).await;
    for member in [&one, &two] {
        assert_eq!(
            member.take(1).await,
            ["new"],
            "who lags behind goes on at what is kept, and holds nothing back"
        );
        member.is_done().await;
    }
    scene.end().await;
}
