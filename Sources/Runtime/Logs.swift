import Catalog
import Core
import DriverKit
import Recovery
import Vault

/// What the logs in a system's repositories are good for; asks no store.
package struct Logs: Sendable {
  private let system: ManagedSystem

  package init(_ system: ManagedSystem) { self.system = system }

  /// How much of a store's work would be lost if it were lost now.
  package struct Standing: Sendable, Codable, Equatable {
    package enum State: String, Sendable, Codable {
      /// The log leads on from a copy.
      case followed
      /// There is a log, and no copy it leads on from: it is of no use until one is taken.
      case needsCopy = "needs-copy"
      /// Only the moments of copies can be come back to.
      case copies
      case nothing
    }

    package var store: StoreName
    package var state: State
    /// The newest moment that can be come back to, by the server's clock where a log leads to it.
    package var newest: Timestamp?
    package var position: LogPosition?
    /// From that moment until now.
    package var rpoSeconds: Double?
    package var objectiveSeconds: Double?
    package var gaps: Int
    package var unreadable: Int

    package var missesObjective: Bool {
      guard let objectiveSeconds else { return false }
      return rpoSeconds.map { $0 > objectiveSeconds } ?? true
    }
  }

  package func stores(_ names: Set<StoreName>) throws(RecoveryError) -> [StoreName] {
    for name in names where system.catalog.store(name) == nil { throw .noSuchStore(name) }
    return system.catalog.stores.map(\.name).filter { names.isEmpty || names.contains($0) }
  }

  package func standings(_ stores: [StoreName]) async throws(AnyFailure) -> [Standing] {
    do {
      var result: [Standing] = []
      for store in stores {
        let found = try await look(at: store)
        let now = system.host.time.now()
        let coverage = Recovery.coverage(of: found.bases, found.chains)
        let best = coverage.reaches.max { $0.toTime < $1.toTime }
        let state: Standing.State =
          if coverage.unbased.contains(where: { $0.to == found.chains.last?.to }) {
            .needsCopy
          } else if found.chains.isEmpty {
            best == nil ? .nothing : .copies
          } else { .followed }
        result.append(
          Standing(
            store: store, state: state, newest: best?.toTime, position: best?.to,
            rpoSeconds: best.map { max(0, (now - $0.toTime).seconds) },
            objectiveSeconds: objective(of: store), gaps: coverage.gaps.count, unreadable: found.unreadable.count))
      }
      return result
    } catch { throw AnyFailure(error) }
  }

  /// The strictest of the services that own the store.
  private func objective(of store: StoreName) -> Double? {
    system.catalog.services.filter { $0.stores.contains(store) }.compactMap { $0.objectives.rpo?.seconds }.min()
  }

  package func coverage(of store: StoreName) async throws(AnyFailure) -> (LogCoverage, unreadable: [String: Report]) {
    do {
      let found = try await look(at: store)
      return (Recovery.coverage(of: found.bases, found.chains), found.unreadable)
    } catch { throw AnyFailure(error) }
  }

  private struct Found: Sendable {
    var bases: [LogBase]
    var captures: [PointID: CaptureResult]
    var parts: [PointID: StorePoint] = [:]
    var chains: [LogChain]
    var unreadable: [String: Report]
  }

  private func look(at name: StoreName) async throws -> Found {
    guard let store = system.catalog.store(name) else { throw RecoveryError.noSuchStore(name) }
    let vault = try await system.vault(of: store.repository)
    // Whoever follows has written since.
    try await vault.refreshIndex()
    let snapshots = try await vault.snapshots()
    let listing = try await LogArchive(vault: vault, store: name, pool: system.host.pool).list(in: snapshots)
    let points = try await PointCatalog(vault: vault, pool: system.host.pool).list()
    let chains = listing.chains
    let files = chains.flatMap { $0.extents.map(\.file) }
    let follower = try system.driver(of: name).follower()
    var found = Found(bases: [], captures: [:], chains: chains, unreadable: [:])
    for (snapshot, report) in listing.unreadable + points.unreadable { found.unreadable[snapshot] = report }
    for point in points.points {
      guard let part = point.stores[name] else { continue }
      let capture = part.capture
      (found.captures[point.id], found.parts[point.id]) = (capture, part)
      found.bases.append(
        LogBase(
          point: point.id, time: point.time, position: capture.position,
          cursor: follower?.cursor(of: capture.position, in: capture, among: files)))
    }
    return found
  }

  // MARK: Going forward

  /// The copies from which a target can be reached, newest first.
  func forwards(_ name: StoreName, to target: ForwardTarget) async throws -> [LogForward] {
    try await ways(of: name).to(target)
  }

  /// One look at a store's copies and log, for as many targets as wanted.
  func ways(of name: StoreName) async throws -> LogWays {
    let found = try await look(at: name)
    guard let follower = try system.driver(of: name).follower() else { throw RecoveryError.logNotFollowed(name) }
    return LogWays(
      name: name, follower: follower, bases: found.bases, captures: found.captures, chains: found.chains,
      parts: found.parts)
  }
}

/// Ways from a store's copies along its log.
struct LogWays: Sendable {
  var name: StoreName
  var follower: any LogFollower
  var bases: [LogBase]
  var captures: [PointID: CaptureResult]
  var chains: [LogChain]
  /// The copies themselves, where they are wanted.
  var parts: [PointID: StorePoint] = [:]

  /// The copies from which a target can be reached, newest first.
  ///
  /// - Throws: ``RecoveryError/logLagsBehind(_:target:why:)`` if there is none.
  func to(_ target: ForwardTarget) throws(RecoveryError) -> [LogForward] {
    var result: [LogForward] = []
    /// The newest copy that no log leads on from.
    var unled: LogBase?
    var why =
      chains.isEmpty ? "no log of it is in the repository" : "no copy before it has a log that leads there"
    for base in bases.sorted(by: { $0.time > $1.time }) {
      guard let from = base.cursor, let capture = captures[base.point],
        let chain = chains.last(where: { $0.place(of: from) != nil }), let start = chain.place(of: from)
      else {
        unled = unled ?? base
        continue
      }
      var forward = LogForward(
        store: name, point: base.point, target: .newest, from: from, through: chain.end.cursor, time: nil)
      switch target {
      case .newest: forward.time = chain.completeUntil ?? chain.lastCommit
      case .time(let time):
        guard base.time <= time else { continue }
        guard let until = chain.completeUntil, time <= until else {
          why = "its log leads to \(chain.completeUntil?.description ?? "no known time")"
          continue
        }
        (forward.target, forward.time) = (.time(time), time)
        if follower.moment(of: base.position) != nil { forward.through = chain.end(holding: time, from: start) }
      case .position, .mark:
        let position: LogPosition
        switch target {
        case .mark(let named): position = named
        case .position(let text): position = LogPosition(kind: capture.position.kind, value: text)
        default: continue
        }
        if let moment = follower.moment(of: position) {
          if let copied = follower.moment(of: base.position), copied > moment { continue }
          guard let until = chain.completeUntil, moment <= until else {
            why = "its log leads to \(chain.completeUntil?.description ?? "no known time")"
            continue
          }
          (forward.target, forward.time) = (.time(moment), moment)
          forward.through = chain.end(holding: moment, from: start)
          break
        }
        guard let cursor = follower.cursor(of: position, in: capture, among: chain.extents.map(\.file)),
          let end = chain.place(of: cursor)
        else {
          why = "its log leads from \(chain.from.value) to \(chain.to.value)"
          continue
        }
        guard start <= end else { continue }
        forward.through = cursor
      case .name(let text): forward.target = .name(text)
      case .transaction(let text): forward.target = .transaction(text)
      }
      result.append(forward)
    }
    if target == .newest {
      result.sort { ($0.time ?? Timestamp(nanoseconds: .min)) > ($1.time ?? Timestamp(nanoseconds: .min)) }
      if let unled, let reached = result.first?.time, unled.time > reached {
        result = []
        why = "its log leads to \(reached), and point \(unled.point) of \(unled.time) is newer: restore that one"
      }
    }
    guard !result.isEmpty else { throw RecoveryError.logLagsBehind(name, target: target.description, why: why) }
    return result
  }
}

extension LogChain {
  /// The first place behind `start` up to which all is there that was acknowledged before a moment; the chain's end if no
  /// stretch says so.
  func end(holding moment: Timestamp, from start: LogPlace) -> LogCursor {
    let ends = spans.lazy.filter { $0.span.completeUntil.map { $0 >= moment } ?? false }.map(\.span.end)
    return ends.first { cursor in place(of: cursor).map { start <= $0 } ?? false } ?? end.cursor
  }
}

/// What an operator asks a single store to be brought forward to.
package enum ForwardTarget: Sendable, Equatable, CustomStringConvertible {
  case newest
  case time(Timestamp)
  /// In the engine's own spelling.
  case position(String)
  case name(String)
  case transaction(String)
  /// As a driver named it, with all its details.
  case mark(LogPosition)

  package var description: String {
    switch self {
    case .newest: "the end of its log"
    case .time(let time): time.description
    case .position(let text): text
    case .name(let text): "the restore point '\(text)'"
    case .transaction(let text): "transaction \(text)"
    case .mark(let position): position.value
    }
  }
}

/// How one store of a restore goes on from its copy; kept with the run, so that a resume goes to the same place.
package struct LogForward: Sendable, Codable, Equatable {
  package var store: StoreName
  package var point: PointID
  package var target: LogTarget
  /// The copy's mark, and the end of the log as it was when the restore was planned.
  package var from: LogCursor
  package var through: LogCursor
  /// The moment that is reached, where it is known beforehand.
  package var time: Timestamp?

  func replay(from archive: @escaping @Sendable () async throws(AnyFailure) -> LogArchive) -> LogReplay {
    LogReplay(source: ArchivedLog(from: from, through: through, open: archive), target: target)
  }
}
