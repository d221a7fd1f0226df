//! The crate `zookeeper-client` over its API. Usage: quorate-wire-client FIRST SECOND, two servers of one
//! cluster. When it prints "stop the first server" its caller is to do so.

use std::time::Duration;

use zookeeper_client::{
    Acl, Acls, AddWatchMode, AuthId, Client, CreateMode, Error, EventType, LockOptions, LockPrefix,
    MultiReadResult, MultiWriteError, Permission,
};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const OPEN: Acls<'static> = Acls::anyone_all();

async fn connect(servers: &str) -> Result<Client, Error> {
    Client::connector()
        .with_session_timeout(Duration::from_secs(10))
        .connect(servers)
        .await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let servers: Vec<String> = std::env::args().skip(1).collect();
    let all = async {
        let client = connect(&servers[0]).await?;
        creates_and_reads(&client).await?;
        keeps_acls(&client, &servers[0]).await?;
        multis(&client).await?;
        watches(&client, &connect(&servers[1]).await?).await?;
        answers_in_order(&client).await?;
        locks(&client, &connect(&servers[1]).await?).await?;
        sessions(&servers).await?;
        moves(&servers).await
    };
    tokio::time::timeout(Duration::from_secs(90), all).await??;
    println!("all operations");
    Ok(())
}

async fn creates_and_reads(client: &Client) -> Outcome {
    let persistent = CreateMode::Persistent.with_acls(OPEN);
    let (created, _) = client.create("/rust", b"root", &persistent).await?;
    assert_eq!(client.get_data("/rust").await?, (b"root".to_vec(), created));
    let again = client.create("/rust", b"", &persistent).await;
    assert_eq!(again.unwrap_err(), Error::NodeExists);
    let sequential = CreateMode::PersistentSequential.with_acls(OPEN);
    let (_, sequence) = client.create("/rust/s-", b"", &sequential).await?;
    assert_eq!(sequence.to_string(), "0000000000");
    let ephemeral = CreateMode::EphemeralSequential.with_acls(OPEN);
    let (stat, sequence) = client.create("/rust/e-", b"", &ephemeral).await?;
    assert_eq!(stat.ephemeral_owner, client.session_id().0);
    let ephemerals = client.list_ephemerals("/rust").await?;
    assert_eq!(ephemerals, [format!("/rust/e-{sequence}")]);
    let container = CreateMode::Container.with_acls(OPEN);
    client.create("/rust/container", b"", &container).await?;
    let ttl = CreateMode::Persistent
        .with_acls(OPEN)
        .with_ttl(Duration::from_secs(3600));
    client.create("/rust/ttl", b"", &ttl).await?;
    let mut children = client.list_children("/rust").await?;
    children.sort();
    assert_eq!(
        children,
        ["container", "e-0000000001", "s-0000000000", "ttl"]
    );
    let (children, stat) = client.get_children("/rust").await?;
    assert_eq!(
        (children.len(), stat.num_children, stat.cversion),
        (4, 4, 4)
    );
    assert_eq!(client.count_descendants_number("/rust").await?, 4);
    assert_eq!(client.set_data("/rust", b"more", Some(0)).await?.version, 1);
    let stale = client.set_data("/rust", b"", Some(0)).await;
    assert_eq!(stale.unwrap_err(), Error::BadVersion);
    assert_eq!(
        client.delete("/rust", None).await.unwrap_err(),
        Error::NotEmpty
    );
    assert_eq!(
        client.delete("/none", None).await.unwrap_err(),
        Error::NoNode
    );
    assert_eq!(client.check_stat("/none").await?, None);
    client.sync("/rust").await?;
    let chroot = client.clone().chroot("/rust").map_err(|_| "no chroot")?;
    assert_eq!(chroot.get_data("/").await?.0, b"more");
    chroot.mkdir("/deep/deeper", &persistent).await?;
    assert!(client.check_stat("/rust/deep/deeper").await?.is_some());
    Ok(())
}

async fn keeps_acls(client: &Client, server: &str) -> Outcome {
    client.auth("digest", b"ann:secret").await?;
    let own = CreateMode::Persistent.with_acls(Acls::creator_all());
    client.create("/rust/mine", b"own", &own).await?;
    let (acl, _) = client.get_acl("/rust/mine").await?;
    assert_eq!((acl.len(), acl[0].scheme()), (1, "digest"));
    let users = client.list_auth_users().await?;
    assert!(
        users
            .iter()
            .any(|user| (user.scheme(), user.user()) == ("digest", "ann"))
    );
    let other = connect(server).await?;
    assert_eq!(
        other.get_data("/rust/mine").await.unwrap_err(),
        Error::NoAuth
    );
    other.auth("digest", b"ann:secret").await?;
    assert_eq!(other.get_data("/rust/mine").await?.0, b"own");
    let acl = [Acl::new(Permission::ALL, AuthId::new("world", "anyone"))];
    assert_eq!(
        client.set_acl("/rust/mine", &acl, Some(0)).await?.aversion,
        1
    );
    assert_eq!(client.get_acl("/rust/mine").await?.0, acl);
    Ok(())
}

async fn multis(client: &Client) -> Outcome {
    let persistent = CreateMode::Persistent.with_acls(OPEN);
    let mut writer = client.new_multi_writer();
    writer.add_create("/rust/m", b"1", &persistent)?;
    writer.add_set_data("/rust/m", b"2", Some(0))?;
    writer.add_check_version("/rust/m", 1)?;
    assert_eq!(writer.commit().await?.len(), 3);
    let mut writer = client.new_multi_writer();
    writer.add_delete("/rust/m", None)?;
    writer.add_check_version("/rust/none", 1)?;
    let failed = writer.commit().await.unwrap_err();
    let source = Error::NoNode;
    assert_eq!(
        failed,
        MultiWriteError::OperationFailed { index: 1, source }
    );
    let mut reader = client.new_multi_reader();
    reader.add_get_data("/rust/m")?;
    reader.add_get_children("/rust/deep")?;
    reader.add_get_data("/rust/none")?;
    let results = reader.commit().await?;
    assert!(matches!(&results[0], MultiReadResult::Data { data, .. } if data == b"2"));
    assert!(
        matches!(&results[1], MultiReadResult::Children { children } if children == &["deeper"])
    );
    assert!(matches!(
        &results[2],
        MultiReadResult::Error { err: Error::NoNode }
    ));
    let mut writer = client.new_check_writer("/rust/m", Some(1))?;
    writer.add_delete("/rust/m", None)?;
    writer.commit().await?;
    Ok(())
}

async fn watches(client: &Client, other: &Client) -> Outcome {
    let persistent = CreateMode::Persistent.with_acls(OPEN);
    let (_, created) = client.check_and_watch_stat("/rust/w").await?;
    other.create("/rust/w", b"", &persistent).await?;
    let event = created.changed().await;
    assert_eq!(
        (event.event_type, &*event.path),
        (EventType::NodeCreated, "/rust/w")
    );
    let (_, _, data) = client.get_and_watch_data("/rust/w").await?;
    let (_, _, children) = client.get_and_watch_children("/rust/w").await?;
    let (_, _, removed) = client.get_and_watch_data("/rust/w").await?;
    drop(removed);
    let mut all = client
        .watch("/rust/w", AddWatchMode::PersistentRecursive)
        .await?;
    other.set_data("/rust/w", b"x", None).await?;
    assert_eq!(data.changed().await.event_type, EventType::NodeDataChanged);
    other.create("/rust/w/c", b"", &persistent).await?;
    assert_eq!(
        children.changed().await.event_type,
        EventType::NodeChildrenChanged
    );
    other.delete("/rust/w/c", None).await?;
    let expected = [
        (EventType::NodeDataChanged, "/rust/w"),
        (EventType::NodeCreated, "/rust/w/c"),
        (EventType::NodeDeleted, "/rust/w/c"),
    ];
    for expected in expected {
        let event = all.changed().await;
        assert_eq!((event.event_type, &*event.path), expected);
    }
    drop(all);
    Ok(())
}

async fn answers_in_order(client: &Client) -> Outcome {
    let persistent = CreateMode::Persistent.with_acls(OPEN);
    client.create("/rust/o", b"", &persistent).await?;
    let mut calls = Vec::new();
    for at in 0..500_i32 {
        let set = client.set_data("/rust/o", at.to_string().as_bytes(), Some(at));
        calls.push((set, client.get_data("/rust/o")));
    }
    for (at, (set, read)) in calls.into_iter().enumerate() {
        assert_eq!(set.await?.version as usize, at + 1);
        assert_eq!(read.await?.0, at.to_string().as_bytes());
    }
    Ok(())
}

async fn locks(client: &Client, other: &Client) -> Outcome {
    let prefix = || LockPrefix::new_curator("/rust/locks", "lock-");
    let options =
        || LockOptions::new(OPEN).with_ancestor_options(CreateMode::Persistent.with_acls(OPEN));
    let held = client.lock(prefix()?, b"", options()?).await?;
    let waiting = other.lock(prefix()?, b"", options()?);
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut waiting).await;
    assert!(early.is_err(), "two hold the lock");
    drop(held);
    let held = waiting.await?;
    held.set_data("/rust", b"under the lock", None).await?;
    Ok(())
}

async fn sessions(servers: &[String]) -> Outcome {
    let ephemeral = CreateMode::Ephemeral.with_acls(OPEN);
    let client = connect(&servers[0]).await?;
    client.create("/rust/gone", b"", &ephemeral).await?;
    let mut state = client.state_watcher();
    let other = connect(&servers[1]).await?;
    other.sync("/rust").await?;
    let (_, gone) = other.check_and_watch_stat("/rust/gone").await?;
    // Taken up at another server: the first connection ends. Its client connects again and takes the session
    // back, so both may lose it now and then.
    let session = client.session().clone();
    let again = loop {
        let connector = Client::connector().with_session(session.clone());
        match connector.connect(&servers[1]).await {
            Err(Error::ConnectionLoss | Error::Timeout) => {}
            connected => break connected?,
        }
    };
    let found = loop {
        match again.check_stat("/rust/gone").await {
            Err(Error::ConnectionLoss) => {}
            answered => break answered?,
        }
    };
    assert!(found.is_some());
    assert_eq!(again.session_id(), client.session_id());
    drop(client);
    drop(again);
    while !state.changed().await.is_terminated() {}
    let event = gone.changed().await;
    assert_eq!(
        (event.event_type, &*event.path),
        (EventType::NodeDeleted, "/rust/gone")
    );
    Ok(())
}

async fn moves(servers: &[String]) -> Outcome {
    let both = servers.join(",");
    let client = connect(&both).await?;
    let writer = connect(&servers[1]).await?;
    let ephemeral = CreateMode::Ephemeral.with_acls(OPEN);
    client.create("/rust/moved", b"", &ephemeral).await?;
    let session = client.session_id().0;
    let (_, _, watch) = client.get_and_watch_data("/rust").await?;
    println!("stop the first server");
    // Wherever it was connected: by the time that it hears of this it is at the second.
    let mut turn = 0;
    let heard = watch.changed();
    tokio::pin!(heard);
    loop {
        turn += 1;
        writer
            .set_data("/rust", turn.to_string().as_bytes(), None)
            .await?;
        if let Ok(event) = tokio::time::timeout(Duration::from_millis(100), &mut heard).await {
            assert_eq!(event.event_type, EventType::NodeDataChanged);
            break;
        }
    }
    loop {
        match client.check_stat("/rust/moved").await {
            Ok(stat) => {
                let owner = stat.map(|stat| stat.ephemeral_owner);
                assert_eq!(owner, Some(session));
                return Ok(());
            }
            Err(Error::ConnectionLoss) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => return Err(error.into()),
        }
    }
}
