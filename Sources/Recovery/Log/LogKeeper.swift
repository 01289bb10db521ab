import Core
import DriverKit
import IO
import Synchronization
import Vault

/// Keeps one store's log in a repository, for as long as it is let.
///
/// A follower fills a buffer; every so often what came becomes a stretch in the vault, and only then the follower may
/// acknowledge it. After any failure the repository is asked anew where the log ends, and the store is asked for what comes
/// next: nothing is assumed of what was in memory.
package struct LogKeeper: Sendable {
  package struct Options: Sendable {
    /// What came is durable within about this: a stretch is begun when half of it has passed.
    package var within: Duration = .seconds(2)
    /// A stretch is written at once when so much waits.
    package var spanBytes = 16 << 20
    /// How much may wait in memory while the repository is slow.
    package var bufferBytes = 64 << 20
    /// How often a store that is silent has it recorded that nothing was missed.
    package var idle: Duration = .seconds(30)
    /// How often old stretches are looked at, to be joined.
    package var joining: Duration = .seconds(60)
    /// How often is looked whether somebody wants the repository alone.
    package var courtesy: Duration = .seconds(5)
    package var pauses: (first: Duration, longest: Duration) = (.milliseconds(200), .seconds(5))

    /// A small part of what it may take until what came is durable.
    var gathering: Duration { max(.milliseconds(1), min(within / 20, .milliseconds(100))) }

    package init() {}
  }

  /// Asked to stop: the follower ends, what came is written, and ``run(until:report:)`` returns.
  package final class Stop: Sendable {
    private struct State {
      var hasCome = false
      var next = 0
      var waiting: [Int: CheckedContinuation<Void, Never>] = [:]
      var given = Set<Int>()
    }

    private let state = Mutex(State())
    private let outer: Stop?

    /// - Parameter outer: One that stops this one too.
    package init(within outer: Stop? = nil) { self.outer = outer }

    package var isOver: Bool { state.withLock { $0.hasCome } || outer?.isOver == true }

    package func come() {
      let waiting = state.withLock { state in
        state.hasCome = true
        defer { state.waiting = [:] }
        return state.waiting.values
      }
      for one in waiting { one.resume() }
    }

    /// Until it comes, or the task is cancelled.
    package func wait() async {
      guard let outer else { return await waitForItself() }
      await withTaskGroup(of: Void.self) { group in
        group.addTask { await self.waitForItself() }
        group.addTask { await outer.wait() }
        await group.next()
        group.cancelAll()
      }
    }

    private func waitForItself() async {
      let number = state.withLock { state in
        state.next += 1
        return state.next
      }
      await withTaskCancellationHandler {
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
          let isOver = state.withLock { state in
            // Cancelled before it waited.
            if state.hasCome || state.given.remove(number) != nil { return true }
            state.waiting[number] = continuation
            return false
          }
          if isOver { continuation.resume() }
        }
      } onCancel: {
        let continuation = state.withLock { state in
          if let found = state.waiting.removeValue(forKey: number) { return Optional(found) }
          state.given.insert(number)
          return nil
        }
        continuation?.resume()
      }
      state.withLock { _ = $0.given.remove(number) }
    }
  }

  /// What is told while it runs.
  package enum News: Sendable {
    case following(from: LogPosition?)
    /// A stretch is durable.
    case saved(LogSpan, bytes: Int)
    /// The log does not go on from where it was: from here on a new copy is needed.
    case gap(String)
    case joined(Int)
    /// Will be tried again.
    case trouble(Report)
    /// Somebody wants the repository alone; what came is written, and following goes on after them.
    case standingBack(for: String)
    case unreadable(snapshot: String, Report)
  }

  private let archive: LogArchive
  private let follower: any LogFollower
  private let driver: DriverName
  private let host: String
  private let time: any Timekeeper
  private let options: Options
  private let hint: @Sendable () async -> LogCursor?

  /// - Parameter hint: The newest copy's mark, where a log that begins should go on from.
  package init(
    archive: LogArchive, follower: any LogFollower, driver: DriverName, host: String, time: any Timekeeper,
    options: Options = Options(), hint: @escaping @Sendable () async -> LogCursor? = { nil }
  ) {
    (self.archive, self.follower, self.driver, self.host) = (archive, follower, driver, host)
    (self.time, self.options, self.hint) = (time, options, hint)
  }

  /// Follows until it is stopped, under the repository's lock, which the caller holds.
  ///
  /// - Throws: What can't be mended by trying again; ``RecoveryError/cancelled``.
  package func run(until stop: Stop, report: @escaping @Sendable (News) -> Void) async throws(RecoveryError) {
    var pause = options.pauses.first
    while !stop.isOver {
      let start = time.monotonicNanoseconds()
      do throws(RecoveryError) {
        return try await session(until: stop, report)
      } catch {
        // The last stretch could not be written: whoever asked us to stop must hear that.
        if stop.isOver { throw error }
        switch error {
        case .cancelled: throw error
        case .store(_, let report) where report.retry == .never: throw error
        case .vault(let report) where report.code == "VAULT-202": throw error
        default: report(.trouble(error.report))
        }
      }
      if Duration.nanoseconds(time.monotonicNanoseconds() - start) > .seconds(30) { pause = options.pauses.first }
      try await sleep(pause, until: stop)
      pause = min(pause * 2, options.pauses.longest)
    }
  }

  private enum Ended: Sendable {
    case stopped
    case failed(RecoveryError)
  }

  /// From one look at what the repository has until something fails.
  private func session(until stop: Stop, _ report: @escaping @Sendable (News) -> Void) async throws(RecoveryError) {
    // One look for both, where the log ends and what number comes next: somebody else may be writing.
    let snapshots = try await archive.snapshots()
    let listing = try await archive.list(in: snapshots)
    for (snapshot, why) in listing.unreadable { report(.unreadable(snapshot: snapshot, why)) }
    let chain = listing.chains.last
    let end: LogEnd? = if let chain { try await archive.end(of: chain) } else { nil }
    let buffer = LogBuffer(
      end: end,
      next: max(
        listing.spans.map(\.span.numbers.upperBound).max() ?? 0,
        LogArchive.lastNumber(of: archive.store, among: snapshots)) + 1,
      attached: Set(chain?.spans.flatMap(\.span.attachments) ?? []), time: time, limitBytes: options.bufferBytes,
      gathering: options.gathering)
    let mark = await hint()
    let ended = await withTaskGroup(of: Ended.self) { group in
      group.addTask { await self.follow(into: buffer, hint: mark, until: stop, report) }
      group.addTask {
        do throws(RecoveryError) {
          try await self.write(from: buffer, until: stop, report)
          return .stopped
        } catch { return .failed(error) }
      }
      group.addTask {
        do throws(RecoveryError) {
          try await self.join(until: stop, report)
          return .stopped
        } catch { return .failed(error) }
      }
      var result: Ended = .stopped
      for await ended in group {
        // Told to stop, both end by themselves: a stretch that is being written is written.
        guard case .failed(let error) = ended else { continue }
        if case .failed = result {} else { result = .failed(error) }
        group.cancelAll()
      }
      return result
    }
    if Task.isCancelled { throw .cancelled }
    switch ended {
    case .failed(let error): throw error
    case .stopped: try await save(from: buffer, report)
    }
  }

  // MARK: Following

  /// Comes again after whatever ends a connection, with what is in the buffer.
  private func follow(
    into buffer: LogBuffer, hint: LogCursor?, until stop: Stop, _ report: @escaping @Sendable (News) -> Void
  ) async -> Ended {
    var pause = options.pauses.first
    // A server that is away is told of once, not with every try.
    var told: String?
    while !stop.isOver {
      let start = time.monotonicNanoseconds()
      if told == nil { report(.following(from: buffer.end?.position)) }
      let outcome: DriverError? = await withTaskGroup(of: DriverError?.self) { group in
        group.addTask {
          buffer.connecting()
          do throws(DriverError) {
            try await follower.follow(from: buffer.end, hint: hint, into: buffer)
            return nil
          } catch { return error }
        }
        group.addTask {
          await stop.wait()
          return .cancelled
        }
        let first = await group.next() ?? nil
        group.cancelAll()
        // The follower is heard out: it may be putting bytes into the buffer.
        for await _ in group {}
        return first
      }
      if stop.isOver { return .stopped }
      if Task.isCancelled { return .failed(.cancelled) }
      if let outcome {
        if outcome.isFinal { return .failed(.store(archive.store, outcome.report.final)) }
        if told != outcome.report.summary { report(.trouble(outcome.report)) }
        told = outcome.report.summary
      }
      if Duration.nanoseconds(time.monotonicNanoseconds() - start) > .seconds(2) {
        pause = options.pauses.first
        told = nil
      }
      do throws(RecoveryError) { try await sleep(pause, until: stop) } catch { return .failed(error) }
      pause = min(pause * 2, options.pauses.longest)
    }
    return .stopped
  }

  private func sleep(_ duration: Duration, until stop: Stop) async throws(RecoveryError) {
    if stop.isOver { return }
    let time = time
    await withTaskGroup(of: Void.self) { group in
      group.addTask { await stop.wait() }
      group.addTask { try? await time.sleep(for: duration) }
      await group.next()
      group.cancelAll()
    }
    if Task.isCancelled { throw .cancelled }
  }

  // MARK: Writing

  private func write(
    from buffer: LogBuffer, until stop: Stop, _ report: @Sendable @escaping (News) -> Void
  ) async throws(RecoveryError) {
    let tick = max(.milliseconds(1), min(options.within / 8, .milliseconds(250)))
    // While whoever is behind has a stretch made durable, the next one's content is taken.
    var ready: LogArchive.Prepared?
    while !stop.isOver {
      if Task.isCancelled { throw .cancelled }
      var pause = tick
      let waiting = buffer.waiting
      // Whoever is behind has no time to wait.
      let isBehind = waiting.map { $0.bytes >= options.spanBytes } ?? false
      if !isBehind, let prepared = ready {
        ready = nil
        try await commit(prepared, buffer, report)
        continue
      }
      if let waiting {
        let age = Duration.nanoseconds(time.monotonicNanoseconds() - waiting.since)
        pause = isBehind ? .zero : min(tick, options.within / 2 - age)
      }
      if pause > .zero { do { try await time.sleep(for: pause) } catch { throw .cancelled } }
      let now = time.monotonicNanoseconds()
      if let waiting = buffer.waiting {
        let age = Duration.nanoseconds(now - waiting.since)
        guard age >= options.within / 2 || waiting.bytes >= options.spanBytes else { continue }
        for draft in buffer.take() { ready = try await prepare(draft, committing: ready, buffer, report) }
      } else if let idle = buffer.idle(for: options.idle) {
        ready = try await prepare(idle, committing: ready, buffer, report)
      }
    }
    if let ready { try await commit(ready, buffer, report) }
  }

  /// Beside the writing: what is old can wait, what comes can't.
  private func join(until stop: Stop, _ report: @Sendable (News) -> Void) async throws(RecoveryError) {
    var known: [Digest: StoredSpan] = [:]
    while true {
      try await sleep(options.joining, until: stop)
      if stop.isOver { return }
      do throws(RecoveryError) { try await join(&known, report) } catch {
        if case .cancelled = error { throw error }
        report(.trouble(error.report))
      }
    }
  }

  private func save(
    from buffer: LogBuffer, _ report: @Sendable @escaping (News) -> Void
  ) async throws(RecoveryError) {
    for draft in buffer.take() {
      let prepared = try await archive.prepare(draft, driver: driver, host: host)
      try await commit(prepared, buffer, report)
    }
  }

  /// Takes a stretch's content, and makes the one before it durable meanwhile.
  private func prepare(
    _ draft: LogBuffer.Draft, committing before: LogArchive.Prepared?, _ buffer: LogBuffer,
    _ report: @Sendable @escaping (News) -> Void
  ) async throws(RecoveryError) -> LogArchive.Prepared {
    guard let before else { return try await archive.prepare(draft, driver: driver, host: host) }
    async let problem = failure(committing: before, buffer, report)
    let prepared: LogArchive.Prepared
    do throws(RecoveryError) { prepared = try await archive.prepare(draft, driver: driver, host: host) } catch {
      // What is under way is not to be cut off for what comes after it.
      throw await problem ?? error
    }
    if let problem = await problem { throw problem }
    return prepared
  }

  private func failure(
    committing prepared: LogArchive.Prepared, _ buffer: LogBuffer, _ report: @Sendable (News) -> Void
  ) async -> RecoveryError? {
    do throws(RecoveryError) { try await commit(prepared, buffer, report) } catch { return error }
    return nil
  }

  private func commit(
    _ prepared: LogArchive.Prepared, _ buffer: LogBuffer, _ report: @Sendable (News) -> Void
  ) async throws(RecoveryError) {
    if buffer.isUncertain {
      // Whoever had the store's log while we waited for it has written stretches with the numbers we would give.
      let last = try await archive.lastNumber()
      guard last < buffer.next else { throw .logTakenOver(archive.store, stretch: last) }
      buffer.isCertain()
    }
    let stored = try await archive.commit(prepared, number: buffer.next)
    buffer.saved(prepared.draft)
    if let why = prepared.draft.beginning?.why { report(.gap(why)) }
    report(.saved(stored.span, bytes: prepared.bytes))
  }

  /// - Parameter known: Stretches that were read before.
  private func join(
    _ known: inout [Digest: StoredSpan], _ report: @Sendable (News) -> Void
  ) async throws(RecoveryError) {
    let now = time.now()
    let listing = try await archive.list(known: known)
    known = Dictionary(listing.spans.map { ($0.snapshot, $0) }, uniquingKeysWith: { $1 })
    for chain in listing.chains {
      for run in LogJoining.due(in: chain, now: now) {
        _ = try await archive.join(run)
        report(.joined(run.count))
      }
    }
    try await archive.removeJoined(among: listing.spans)
  }
}

extension DriverError {
  /// What trying again won't mend: it is for an operator.
  fileprivate var isFinal: Bool {
    switch self {
    case .badOption, .unsupported, .authenticationFailed, .permissionDenied: true
    default: false
    }
  }
}

extension Report {
  fileprivate var final: Report {
    var copy = self
    copy.retry = .never
    return copy
  }
}
