import Core
import DriverKit
import IO
import Synchronization

extension DriverContract {
  /// The traits say what the store can do, and a version for engines that have one.
  package func traitsAreTold() async throws {
    try await withStore { fixture in
      let traits = try await fixture.driver(.usual).traits()
      switch traits.hold {
      case .held(let how):
        try promise(fixture.isHeld, "this store can't be held, but the traits say '\(how)'")
        try promise(!how.isEmpty, "the traits name the means of holding")
      case .moment(let how):
        try promise(!fixture.isHeld, "this store can be held, but the traits say '\(how)'")
        try promise(!how.isEmpty, "the traits name what makes it one moment")
      case .outside(let why):
        try promise(!fixture.isHeld, "this store can be held, but the traits say '\(why)'")
        try promise(why.count > 20, "the traits say in so many words why the store is outside the cut, not '\(why)'")
      }
      if let size = traits.sizeBytes { try promise(size > 0, "a store with records has a size") }
    }
  }

  /// A quiet store's capture holds every record, and its result adds up.
  package func captureIsWhole() async throws {
    try await withStore { fixture in
      try await fixture.write(4711, payload: Payload.of(4711))
      let before = try await fixture.records()
      let captured = try await capture(fixture)
      try await restoreInPlace(captured, fixture)
      let after = try await fixture.records()
      try promise(after == before, "all \(before.count) records are in the restored state; it has \(after.count)")
    }
  }

  /// Two captures of a store that did not change have the same content digest and say the same version.
  package func digestIsOfTheContent() async throws {
    try await withStore { fixture in
      let first = try await capture(fixture)
      let second = try await capture(fixture)
      guard let one = first.result.contentDigest, let two = second.result.contentDigest else {
        throw ContractBroken("a content digest was asked for")
      }
      try promise(one == two, "nothing changed, but these parts differ: \(one.differences(from: two))")
      try await fixture.write(4712, payload: Payload.of(4712))
      let third = try await capture(fixture)
      try promise(third.result.contentDigest != one, "a record more, but the same content digest")
      try promise(third.result.position != first.result.position, "a record more, but the same position")
    }
  }

  /// With writers running: every record acknowledged before `hold()` returned is in the restored state, and no record
  /// whose write began after `release()` was called is.
  package func cutIsExact() async throws {
    try await withStore { fixture in
      let tree = MemoryTree()
      let (captured, heldAt, releasedAt, writes) = try await withWriters(to: fixture) { log in
        let driver = try fixture.driver(.usual)
        let (result, heldAt, releasedAt) = try await withSession(of: driver, into: tree) { session in
          try await session.prepare()
          try await session.hold(limit: .seconds(60))
          let heldAt = log.now()
          _ = try await session.mark()
          let releasedAt = log.now()
          let wasHeld = await session.release()
          try promise(wasHeld, "release() says true when the hold was in force to the end")
          try await log.waitForWrites(6, "after release()")
          let result = try await session.finish()
          return (result, heldAt, releasedAt)
        }
        try await log.waitForWrites(3, "after the capture")
        return (Captured(tree: tree, result: result), heldAt, releasedAt, log)
      }
      try await restoreInPlace(captured, fixture)
      let records = try await fixture.records()
      for write in writes.writes {
        if let acknowledged = write.acknowledged, acknowledged < heldAt {
          try promise(
            records.contains(write.number), "record \(write.number) was acknowledged before the hold and is missing")
        }
        if write.began > releasedAt {
          try promise(
            !records.contains(write.number), "record \(write.number) was begun after release() and is in the point")
        }
      }
    }
  }

  /// While held no write is acknowledged; after `release()` writers go on.
  package func heldMeansHeld() async throws {
    try await withStore { fixture in
      try await withWriters(to: fixture) { log in
        let driver = try fixture.driver(.usual)
        let (heldAt, releasedAt) = try await withSession(of: driver, into: MemoryTree()) { session in
          try await session.prepare()
          try await session.hold(limit: .seconds(60))
          let heldAt = log.now()
          // One write that certainly begins while held; it ends when released.
          let releasedAt = try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { await log.write(5000, to: fixture) }
            try await SystemTime().sleep(for: .milliseconds(300))
            _ = try await session.mark()
            let releasedAt = log.now()
            let wasHeld = await session.release()
            try promise(wasHeld, "release() says true when the hold was in force to the end")
            try await group.waitForAll()
            return releasedAt
          }
          try await log.waitForWrites(6, "after release()")
          return (heldAt, releasedAt)
        }
        for write in log.writes where write.began > heldAt {
          guard let acknowledged = write.acknowledged else { continue }
          try promise(
            acknowledged >= releasedAt, "write \(write.number) began while held and was acknowledged before release()")
        }
        try promise(
          log.writes.contains { $0.number == 5000 && $0.acknowledged != nil }, "the write that waited went on")
      }
    }
  }

  /// A hold that nobody releases lapses by itself when its limit has passed, and `release()` then says `false`.
  package func holdLapsesByItself() async throws {
    try await withStore { fixture in
      try await withWriters(to: fixture) { log in
        let driver = try fixture.driver(.usual)
        try await withSession(of: driver, into: MemoryTree()) { session in
          let limit = Duration.seconds(5)
          let begun = log.now()
          try await session.prepare()
          try await session.hold(limit: limit)
          try await log.waitForWrites(6, within: limit + .seconds(10), "a hold of \(limit.brief) that nobody released")
          let lapsed = Duration.nanoseconds(log.now() - begun)
          let wasHeld = await session.release()
          try promise(!wasHeld, "release() says false after the hold lapsed (\(lapsed.brief) after it began)")
        }
        try await log.waitForWrites(3, "after close()")
      }
    }
  }

  /// A session that only marks holds as a capture does, as often as it is asked; its position moves with the store, and a hold
  /// that nobody releases lapses.
  package func markingHoldsAgain() async throws {
    try await withStore { fixture in
      // A mark without a copy before it is of no use, and some servers keep no log before the first.
      _ = try await capture(fixture)
      try await withWriters(to: fixture) { log in
        guard let session = try fixture.driver(.usual).marking() else {
          throw ContractBroken("a store whose log is followed can be marked without a copy")
        }
        let result: Result<Void, any Error>
        do { result = .success(try await markAgain(session, log)) } catch { result = .failure(error) }
        await session.close()
        await session.close()
        try result.get()
        try await log.waitForWrites(3, "after close()")
      }
    }
  }

  private func markAgain(_ session: any MarkSession, _ log: WriteLog) async throws {
    try await session.prepare()
    var marks: Set<LogPosition> = []
    for round in 1...3 {
      try await session.hold(limit: .seconds(60))
      let heldAt = log.now()
      try promise(
        marks.insert(try await session.mark()).inserted, "round \(round): the store was written to, and stands still")
      try await SystemTime().sleep(for: .milliseconds(200))
      let releasedAt = log.now()
      let wasHeld = await session.release()
      try promise(wasHeld, "round \(round): release() says true when the hold was in force to the end")
      try await log.waitForWrites(6, "after release()")
      for write in log.writes where write.began > heldAt {
        guard let acknowledged = write.acknowledged else { continue }
        try promise(
          acknowledged >= releasedAt, "round \(round): write \(write.number) began while held and was acknowledged then"
        )
      }
    }
    let limit = Duration.seconds(5)
    try await session.hold(limit: limit)
    _ = try await session.mark()
    try await log.waitForWrites(6, within: limit + .seconds(10), "a hold of \(limit.brief) that nobody released")
    let wasHeld = await session.release()
    try promise(!wasHeld, "release() says false after the hold lapsed")
  }

  /// Closing a session that holds frees the writers, and closing twice is harmless.
  package func closeFrees() async throws {
    try await withStore { fixture in
      try await withWriters(to: fixture) { log in
        let driver = try fixture.driver(.usual)
        try await withSession(of: driver, into: MemoryTree()) { session in
          try await session.prepare()
          try await session.hold(limit: .seconds(30))
          await session.close()
          try await log.waitForWrites(6, "after close() without release()")
          await session.close()
        }
        // One that was never used, and one that was only prepared.
        try await withSession(of: driver, into: MemoryTree()) { _ in }
        try await withSession(of: driver, into: MemoryTree()) { try await $0.prepare() }
        try await log.waitForWrites(3, "after sessions that never held")
      }
    }
  }

  /// A capture cancelled while held, or while it streams, leaves the store unlocked and a later one works.
  package func cancellationFrees() async throws {
    try await withStore { fixture in
      for (series, place) in [Stall.whileHeld, .inTheSink].enumerated() {
        try await withWriters(to: fixture, series: series) { log in
          try await cancelCapture(fixture, at: place)
          try await log.waitForWrites(6, "after a capture was cancelled \(place)")
        }
      }
      _ = try await capture(fixture)
    }
  }

  /// An error of the sink ends the capture as ``DriverError/sink(_:)`` and leaves the store unlocked.
  package func sinkErrorsSurface() async throws {
    try await withStore { fixture in
      try await withWriters(to: fixture) { log in
        do {
          try await withSession(of: try fixture.driver(.usual), into: StallingSink(.failing)) { session in
            try await session.prepare()
            try await session.hold(limit: .seconds(60))
            _ = try await session.mark()
            _ = await session.release()
            _ = try await session.finish()
          }
          throw ContractBroken("a sink that refuses everything makes the capture fail")
        } catch let error as DriverError {
          guard case .sink = error else { throw ContractBroken("the sink's error comes as .sink, not as \(error)") }
        }
        try await log.waitForWrites(6, "after the sink failed")
      }
    }
  }

  private func cancelCapture(_ fixture: Fixture, at place: Stall) async throws {
    let sink = StallingSink(place)
    let driver = try fixture.driver(.usual)
    try await withThrowingTaskGroup(of: Bool.self) { group in
      group.addTask {
        do {
          try await withSession(of: driver, into: sink) { session in
            try await session.prepare()
            try await session.hold(limit: .seconds(30))
            if place == .whileHeld { try await sink.stall() }
            _ = try await session.mark()
            _ = await session.release()
            _ = try await session.finish()
          }
          return false
        } catch {
          return true
        }
      }
      // A busy machine may take long to get there.
      let deadline = SystemTime().monotonicNanoseconds() + 300_000_000_000
      while !sink.isReached {
        try promise(SystemTime().monotonicNanoseconds() < deadline, "the capture never came \(place)")
        try await SystemTime().sleep(for: .milliseconds(5))
      }
      group.cancelAll()
      let threw = try await group.next()
      try promise(threw == true, "a capture cancelled \(place) ends with an error")
    }
  }
}

enum Stall: Sendable, CustomStringConvertible {
  case whileHeld, inTheSink, failing

  var description: String { self == .whileHeld ? "while held" : "in the sink" }
}

/// A sink that never takes its first entry: waits for cancellation, or refuses.
private final class StallingSink: TreeSink {
  private let place: Stall
  private let reached = Mutex(false)

  init(_ place: Stall) { self.place = place }

  var isReached: Bool { reached.withLock { $0 } }

  func stall() async throws {
    reached.withLock { $0 = true }
    try await SystemTime().sleep(for: .seconds(40))
  }

  func add(
    _ path: TreePath, _ metadata: FileMetadata, cutting: Cutting, content: OpenSource?
  ) async throws(AnyFailure) -> StoredFile {
    do {
      if place == .failing { throw ContractBroken("this sink refuses everything") }
      try await stall()
    } catch {
      throw AnyFailure(error)
    }
    return StoredFile(size: 0, addedBytes: 0)
  }
}
