//! Transactions together with filters, dead letters, replay and retention; `docs/composition.md` has a row for each test.

use sluice_client::admin::SeekTo;
use sluice_client::{Filter, NewMessage};
use sluice_end_to_end::scene::{Scene, TOPIC, body, colored, giving_up_after, only, strict};

#[tokio::test(flavor = "multi_thread")]
async fn transaction_with_filter() {
    let scene = Scene::new().await;
    let red = scene.prepare(colored("red", "committed and red")).await;
    let blue = scene.prepare(colored("blue", "committed and blue")).await;
    let rolled_back = scene.prepare(colored("red", "rolled back")).await;
    let undecided = scene.prepare(colored("red", "undecided")).await;
    for committed in [&blue, &red] {
        committed.commit().await.expect("it is decided");
    }
    rolled_back.roll_back().await.expect("it is decided");
    scene.stored(2).await;
    for (group, filter) in [("sql", only("red")), ("tag", Filter::Tag("red".to_owned()))] {
        let reader = scene.reader(group, filter);
        assert_eq!(reader.take(1).await, ["committed and red"], "it is judged once it is committed");
        reader.is_done().await;
    }
    drop(undecided);
    assert_eq!(scene.topic().await.undecided, 1);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_with_dead_letter() {
    let scene = Scene::new().await;
    scene.group("g", giving_up_after(1, strict())).await;
    let transaction = scene.prepare(NewMessage::new("committed")).await;
    transaction.commit().await.expect("it is decided");
    let reader = scene.reader("g", Filter::All);
    reader.nack(reader.lease().await).await;
    let letters = scene.letters("g", 1).await;
    assert_eq!(letters[0].id, transaction.receipt().id.to_string());
    assert_eq!(
        scene.morgue("g", Filter::All).take(1).await,
        ["committed"],
        "the copy needs no decision"
    );
    transaction.commit().await.expect("the same decision again is answered the same");
    scene.client.resend_dead_letters("g", 0, None, 1).await.expect("it is sent back");
    let again = reader.lease().await;
    assert_eq!((body(&again).as_str(), again.attempt()), ("committed", 2));
    reader.ack(again).await;
    reader.is_done().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_with_replay() {
    let scene = Scene::new().await;
    let early = scene.prepare(NewMessage::new("committed early")).await;
    let late = scene.prepare(NewMessage::new("committed late")).await;
    let never = scene.prepare(NewMessage::new("rolled back")).await;
    early.commit().await.expect("it is decided");
    never.roll_back().await.expect("it is decided");
    let reader = scene.reader("g", Filter::All);
    assert_eq!(reader.take(1).await, ["committed early"]);
    scene.client.seek("g", TOPIC, None, SeekTo::Earliest).await.expect("it begins anew");
    assert_eq!(
        reader.take(1).await,
        ["committed early"],
        "what is undecided or rolled back is not replayed"
    );
    reader.is_done().await;
    late.commit().await.expect("it is decided");
    assert_eq!(
        reader.take(1).await,
        ["committed late"],
        "it is new to the pass in which it is committed"
    );
    scene.client.seek("g", TOPIC, None, SeekTo::Earliest).await.expect("it begins anew");
    assert_eq!(reader.take(2).await, ["committed early", "committed late"]);
    reader.is_done().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_with_retention() {
    let scene = Scene::forgetful().await;
    let waits = scene.prepare(NewMessage::new("undecided for long")).await;
    let committed = scene.prepare(NewMessage::new("committed and old")).await;
    committed.commit().await.expect("it is decided");
    scene.stored(1).await;
    scene.forget().await;
    assert_eq!(scene.topic().await.undecided, 1, "what is undecided is kept");
    waits.commit().await.expect("it is decided");
    let reader = scene.reader("g", Filter::All);
    assert_eq!(reader.take(1).await, ["undecided for long"]);
    reader.is_done().await;
    scene.end().await;
}
