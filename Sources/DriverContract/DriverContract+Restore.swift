import Core
import DriverKit
import Glibc
import IO

extension DriverContract {
  /// Restores beside, swaps in and starts: what the engine's users see afterwards is the capture.
  func restoreInPlace(_ captured: Captured, _ fixture: Fixture) async throws {
    let driver = try fixture.driver(.usual)
    let request = captured.request()
    _ = try await driver.restoreBeside(request)
    try await driver.stop()
    try await driver.swapIn(request)
    try await driver.start()
  }

  /// `restoreBeside` leaves the live state alone, ends at the mark, and the content beside equals the capture's.
  package func restoreBesideIsProved() async throws {
    try await withStore { fixture in
      let captured = try await capture(fixture)
      try await fixture.write(4713, payload: Payload.of(4713))
      let before = try await fixture.records()
      let driver = try fixture.driver(.usual)
      let findings = try await driver.precheck(captured.request())
      try promise(findings.isEmpty, "nothing is in the way of this restore, but the pre-check found \(findings)")
      for attempt in ["first", "replayed"] {
        let state = try await driver.restoreBeside(captured.request())
        try promise(
          state.position == captured.result.position,
          "\(attempt): the state beside is at \(captured.result.position), not at \(state.position)")
        try promise(!state.proofs.isEmpty, "\(attempt): the engine's own checks are named")
        try promise(state.sizeBytes > 0, "\(attempt): the state beside has a size")
        let digest = try await driver.digestBeside(captured.request())
        guard let digest, let expected = captured.result.contentDigest else {
          throw ContractBroken("\(attempt): a capture with a content digest is compared beside")
        }
        try promise(digest == expected, "\(attempt): these parts differ: \(digest.differences(from: expected))")
      }
      let after = try await fixture.records()
      try promise(after == before, "the live state is as it was while a restore went on beside")
      try await driver.discardKept(captured.request())
      try await expectNoLeftovers(fixture)
    }
  }

  /// One flipped bit in the captured tree is found before anything is swapped.
  package func damageIsFound() async throws {
    try await withStore { fixture in
      let captured = try await capture(fixture)
      guard let point = fixture.damagePoint(in: captured.tree) else { throw ContractBroken("nothing to damage") }
      let damaged = try captured.tree.damaged(at: point.path, offset: point.offset)
      let before = try await fixture.records()
      let driver = try fixture.driver(.usual)
      let request = captured.request(from: damaged)
      do {
        _ = try await driver.restoreBeside(request)
        let digest = try await driver.digestBeside(request)
        try promise(
          digest != nil && digest != captured.result.contentDigest,
          "a bit flipped in \(point.path) at \(point.offset) is found")
      } catch let error as DriverError {
        switch error {
        case .corrupt, .engineFailed, .logGap: break
        default: throw ContractBroken("damage is told as damage, not as \(error)")
        }
      }
      let after = try await fixture.records()
      try promise(after == before, "the live state is as it was")
      try await driver.discardKept(request)
      try await expectNoLeftovers(fixture)
    }
  }

  /// `swapIn` and `start`: the capture's records, no more and no fewer. `swapOut`: the old state, byte for byte.
  package func swapInAndOut() async throws {
    try await withStore { fixture in
      let old = try await fixture.records()
      let captured = try await capture(fixture)
      for number in Int64(6000)...6020 { try await fixture.write(number, payload: Payload.of(number)) }
      let new = try await fixture.records()
      let driver = try fixture.driver(.usual)
      _ = try await driver.restoreBeside(captured.request())
      try await driver.stop()
      let bytes = try await liveBytes(fixture)
      try promise(!bytes.isEmpty, "a stopped store has files")
      for _ in 1...2 { try await driver.swapIn(captured.request()) }
      try await driver.start()
      let restored = try await fixture.records()
      try promise(restored == old, "after swapIn: \(old.count) records are expected, there are \(restored.count)")
      try await fixture.write(7000, payload: Payload.of(7000))

      try await driver.stop()
      for _ in 1...2 { try await driver.swapOut(captured.request()) }
      let bytesAgain = try await liveBytes(fixture)
      let changed = Set(bytes.keys).union(bytesAgain.keys).filter { bytes[$0] != bytesAgain[$0] }.sorted()
      try promise(changed.isEmpty, "swapOut brings the old state back byte for byte; different: \(changed)")
      try await driver.start()
      let back = try await fixture.records()
      try promise(back == new, "after swapOut: \(new.count) records are expected, there are \(back.count)")
    }
  }

  /// Swap out before any swap does nothing, a swap can follow a swap out, and giving up the kept state is final.
  package func swapReplays() async throws {
    try await withStore { fixture in
      let captured = try await capture(fixture)
      let old = try await fixture.records()
      try await fixture.write(6100, payload: Payload.of(6100))
      let driver = try fixture.driver(.usual)
      let request = captured.request()
      _ = try await driver.restoreBeside(request)
      try await driver.stop()
      let bytes = try await liveBytes(fixture)
      try await driver.swapOut(request)
      let same = try await liveBytes(fixture)
      try promise(same == bytes, "swapOut before any swapIn does nothing")
      try await driver.swapIn(request)
      var recorded = request
      recorded.isSwapRecorded = true
      for _ in 1...2 { try await driver.swapOut(recorded) }
      try await driver.swapIn(request)
      let swapped = try await liveBytes(fixture)
      try await withoutWorkspaces(fixture) {
        do {
          try await driver.swapOut(recorded)
          throw ContractBroken("swapOut says that it put a state back which is gone")
        } catch let error as DriverError {
          try promise(error.report.code == "DRIVER-608", "a kept state that is gone is told as that, not as \(error)")
        }
      }
      let untouched = try await liveBytes(fixture)
      try promise(untouched == swapped, "swapOut without a kept state leaves the live one alone")
      for _ in 1...2 { try await driver.discardKept(request) }
      try await expectNoLeftovers(fixture)
      try await driver.start()
      let records = try await fixture.records()
      try promise(records == old, "discardKept leaves what was swapped in: \(old.count) records, not \(records.count)")
      try await driver.stop()
      try await driver.stop()
      try await driver.start()
    }
  }

  /// A store whose live state is gone altogether comes back.
  package func lostStateComesBack() async throws {
    try await withStore { fixture in
      let captured = try await capture(fixture)
      let old = try await fixture.records()
      let driver = try fixture.driver(.usual)
      try await driver.stop()
      try await fixture.destroyLive()
      let findings = try await driver.precheck(captured.request())
      try promise(findings.isEmpty, "a lost state is no reason not to restore it, but the pre-check found \(findings)")
      _ = try await driver.restoreBeside(captured.request())
      for _ in 1...2 { try await driver.swapIn(captured.request()) }
      try await driver.swapOut(captured.request())
      let left = try await liveBytes(fixture)
      try promise(left.isEmpty, "swapOut brings back that there was nothing, not \(left.keys.sorted())")
      try await driver.swapIn(captured.request())
      try await driver.start()
      let records = try await fixture.records()
      try promise(records == old, "\(old.count) records come back, there are \(records.count)")
      try await driver.discardKept(captured.request())
      try await expectNoLeftovers(fixture)
    }
  }

  /// The pre-check counts the space a restore needs, also when the snapshot claims an absurd size.
  package func precheckFindsNoSpace() async throws {
    try await withStore { fixture in
      let captured = try await capture(fixture)
      for size in [Int64.max, Int64.max / 4] {
        var request = captured.request()
        request.capture.sizeBytes = size
        let findings = try await fixture.driver(.usual).precheck(request)
        try promise(!findings.isEmpty, "no disk has room for \(size) bytes, but the pre-check found nothing")
      }
    }
  }

  /// The pre-check finds that the place where the state would go can't be written to.
  package func precheckFindsReadOnlyTarget() async throws {
    try await withStore { fixture in
      let captured = try await capture(fixture)
      let place = try ReadOnlyDirectory()
      defer { place.remove() }
      let findings = try await fixture.driver(.liveState(below: place.path)).precheck(captured.request())
      try promise(!findings.isEmpty, "\(place.path) can't be written to, but the pre-check found nothing")
    }
  }

  /// The pre-check finds an engine of another version than the capture's; for engines whose files depend on it.
  package func precheckFindsOtherVersion() async throws {
    try await withStore { fixture in
      var request = try await capture(fixture).request()
      request.capture.version = "1.0.0"
      let findings = try await fixture.driver(.usual).precheck(request)
      try promise(!findings.isEmpty, "version 1.0.0 isn't installed, but the pre-check found nothing")
    }
  }

  /// The pre-check finds a running server that nobody told the driver how to stop.
  package func precheckFindsRunningServer() async throws {
    try await withStore { fixture in
      let captured = try await capture(fixture)
      let findings = try await fixture.driver(.withoutStop).precheck(captured.request())
      try promise(!findings.isEmpty, "the server runs and can't be stopped, but the pre-check found nothing")
    }
  }

  /// `swapIn` under a server or user that still runs is refused with nothing changed.
  package func swapIsRefusedWhileInUse() async throws {
    try await withStore { fixture in
      let captured = try await capture(fixture)
      try await fixture.write(6200, payload: Payload.of(6200))
      let before = try await fixture.records()
      let driver = try fixture.driver(.usual)
      _ = try await driver.restoreBeside(captured.request())
      do {
        try await driver.swapIn(captured.request())
        throw ContractBroken("a store in use isn't swapped")
      } catch DriverError.serverRunning {
        // As promised.
      }
      let after = try await fixture.records()
      try promise(after == before, "a refused swap changes nothing")
    }
  }

  /// An unreadable query is refused, a readable one isn't, and none can write.
  ///
  /// - Parameters:
  ///   - reading: A query that gives one row per record.
  ///   - writing: One that would change the store if it could.
  package func queriesOnlyRead(reading: String, writing: [String]) async throws {
    try await withStore { fixture in
      let driver = try fixture.driver(.usual)
      let records = try await fixture.records()
      let result = try await driver.query(reading, limit: QueryLimit())
      try promise(result.rows.count == records.count, "a row per record: \(records.count), not \(result.rows.count)")
      try promise(!result.isTruncated, "all rows came")
      let short = try await driver.query(reading, limit: QueryLimit(rows: 1))
      try promise(short.rows.count == 1 && short.isTruncated, "the row limit is kept, and said")
      for text in writing {
        do {
          _ = try await driver.query(text, limit: QueryLimit())
          throw ContractBroken("'\(text)' is refused")
        } catch let error as DriverError {
          if case .cancelled = error { throw error }
        }
      }
      let after = try await fixture.records()
      try promise(after == records, "queries change nothing")
    }
  }
}

/// A directory this process can't write to, also if it is root.
private final class ReadOnlyDirectory {
  private let directory: TemporaryDirectory
  private var isMounted = false

  var path: String { directory.path }

  init() throws {
    directory = try TemporaryDirectory("read-only")
    if geteuid() != 0 {
      chmod(directory.path, 0o555)
      return
    }
    // Rights don't stop root; a file system mounted read-only does.
    guard mount("none", directory.path, "tmpfs", UInt(MS_RDONLY), nil) == 0 else {
      throw SystemFailure("mount", path: directory.path)
    }
    isMounted = true
  }

  func remove() {
    if isMounted { umount(directory.path) } else { chmod(directory.path, 0o755) }
  }
}
