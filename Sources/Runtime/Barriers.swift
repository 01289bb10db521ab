import Catalog
import Core
import DriverKit
import IO
import Recovery
import StateKit
import Vault

/// Takes recovery points of groups whose logs are followed: a moment's pause, a few positions written down, nothing copied.
package struct Barriers: Sendable {
  package struct Options: Sendable {
    /// Groups to take; empty means all.
    package var groups: Set<GroupName> = []
    /// What the points are called.
    package var name: String?
    /// Takes the place of the groups' own budget.
    package var holdBudget: Duration?
    /// `false` marks without holding anyone; for negative controls.
    package var holds = true
    /// Without holding: how long to wait between the mark of one store and the next.
    package var apart: Duration = .zero
    /// Again and again, so often; `nil` once.
    package var every: Duration?
    /// With ``every``: as many of each group, then it ends; `nil` until it is cancelled.
    package var count: Int?
    /// How long every one of them stays; after that one a minute for a day, and one an hour.
    package var keepsAll: Duration = .seconds(3600)
    /// How long to wait, once, until the logs have come to the marks.
    package var reachedWithin: Duration = .seconds(10)

    package init() {}
  }

  package enum News: Sendable {
    case taken(RecoveryPoint)
    /// Writers are not held up by it; the next one is tried when it is due.
    case trouble(GroupName, Report)
    case thinned(GroupName, Int)
  }

  private let system: ManagedSystem
  private let journal: any RunJournal

  package init(_ system: ManagedSystem, journal: any RunJournal) { (self.system, self.journal) = (system, journal) }

  /// The groups of which a store or more would be marked; the others of a group are copied.
  ///
  /// - Throws: ``RecoveryError/logNotFollowed(_:)`` where all would have to be copied.
  package func targets(_ options: Options) throws(RecoveryError) -> [Backup.Target] {
    var backup = Backup.Options()
    (backup.groups, backup.holdBudget) = (options.groups, options.holdBudget)
    let all = try Backup(system, journal: journal).targets(backup)
    var targets: [Backup.Target] = []
    for target in all {
      let isMarked = try !marked(in: target).isEmpty
      // Unless they were asked for, groups that can't be marked are none of these.
      if isMarked { targets.append(target) } else if !options.groups.isEmpty { throw .logNotFollowed(target.stores[0]) }
    }
    if targets.isEmpty, let store = all.first?.stores.first { throw .logNotFollowed(store) }
    return targets
  }

  private func marked(in target: Backup.Target) throws(RecoveryError) -> Set<StoreName> {
    var result: Set<StoreName> = []
    for name in target.stores where try system.driver(of: name).marking() != nil { result.insert(name) }
    return result
  }

  /// Takes points until the count is reached, or the caller is cancelled: then it returns as if nothing had happened.
  ///
  /// - Throws: If only one of each was asked for, what it failed with.
  package func run(
    _ targets: [Backup.Target], _ options: Options, report: @escaping @Sendable (News) -> Void
  ) async throws(AnyFailure) {
    let failure = await withTaskGroup(of: AnyFailure?.self) { group in
      for target in targets {
        group.addTask {
          do { try await self.run(target, options, report) } catch { return AnyFailure(error) }
          return nil
        }
      }
      return await group.reduce(AnyFailure?.none) { $0 ?? $1 }
    }
    if let failure { throw failure }
  }

  private func run(
    _ target: Backup.Target, _ options: Options, _ report: @escaping @Sendable (News) -> Void
  ) async throws {
    var (copied, marked): ([StoreName: PointTaker.Member], [StoreName: PointTaker.Member]) = ([:], [:])
    let names = try self.marked(in: target)
    for name in target.stores {
      guard let store = system.catalog.store(name) else { throw RecoveryError.noSuchStore(name) }
      let member = PointTaker.Member(driver: try system.driver(of: name), kind: store.driver)
      if names.contains(name) { marked[name] = member } else { copied[name] = member }
    }
    let group = Group(target: target, copied: copied, marked: marked, sessions: MarkSessions(marked))
    let outcome: Result<Void, any Error>
    do { outcome = .success(try await run(group, options, report)) } catch { outcome = .failure(error) }
    await group.sessions.close()
    if Task.isCancelled, options.every != nil { return }
    try outcome.get()
  }

  private func run(
    _ group: Group, _ options: Options, _ report: @escaping @Sendable (News) -> Void
  ) async throws {
    let (time, name) = (system.host.time, group.target.group)
    guard let every = options.every else {
      let point = try await take(group, options)
      report(.taken(point))
      return
    }
    let start = time.monotonicNanoseconds()
    var (number, thinned): (Int64, Int64) = (0, start)
    var left = options.count ?? .max
    while left > 0 {
      left -= 1
      do { report(.taken(try await take(group, options))) } catch {
        if Task.isCancelled { return }
        report(.trouble(name, AnyFailure(error).report))
      }
      let now = time.monotonicNanoseconds()
      if Duration.nanoseconds(now - thinned) >= .seconds(60) {
        thinned = now
        await EvidenceLog(host: system.host, journal: journal).publishOrWarn()
        // What can't be removed now is there the next time.
        if let count = try? await thinOut(group.target, options), count > 0 { report(.thinned(name, count)) }
      }
      // One that took too long is not made up for.
      number = max(number + 1, (time.monotonicNanoseconds() - start) / every.wholeNanoseconds)
      let pause = start + number * every.wholeNanoseconds - time.monotonicNanoseconds()
      if left > 0, pause > 0 { do { try await time.sleep(for: .nanoseconds(pause)) } catch { return } }
    }
  }

  /// One group while points of it are taken.
  private struct Group: Sendable {
    var target: Backup.Target
    var copied: [StoreName: PointTaker.Member]
    var marked: [StoreName: PointTaker.Member]
    var sessions: MarkSessions
  }

  private func take(_ group: Group, _ options: Options) async throws -> RecoveryPoint {
    let (host, target) = (system.host, group.target)
    // Of points that come every few seconds each would be on stable storage ten times over: they are published together.
    return try await RecordedAct.carryOut(
      .point, "point/\(target.group)", details: ["catalogDigest": .string(system.catalog.digest.hex)], host: host,
      journal: journal, publishes: options.every == nil
    ) { _ in
      let point = try await capture(group, options)
      return (point, point.outcome)
    }
  }

  private func capture(_ group: Group, _ options: Options) async throws -> RecoveryPoint {
    let (system, host, target) = (system, system.host, group.target)
    let vault = try await system.vault(of: target.repository)
    let scratch = host.scratch(for: target.group)
    let outcome: Result<RecoveryPoint, any Error>
    do {
      // A restore that is at work, or was left half-way, makes a state that nobody has proved.
      outcome = .success(
        try await journal.whileReading(Set(target.stores), time: host.time) {
          let sessions = try await group.sessions.open()
          try await host.pool.run { () throws(SystemFailure) in try Files.createDirectory(scratch, mode: 0o711) }
          var request = PointTaker.Request(
            group: target.group, members: group.copied,
            policy: options.holds
              ? .hold(budget: options.holdBudget ?? target.holdBudget) : .none(apart: options.apart),
            onOverBudget: target.onOverBudget, catalogDigest: system.catalog.digest,
            catalogFiles: system.loaded.travelling, scratch: scratch)
          request.name = options.name
          for (name, member) in group.marked {
            if let session = sessions[name] { request.marked[name] = (member.kind, session) }
          }
          let asked = request
          return try await vault.withLock(wait: .seconds(30)) {
            let taker = PointTaker(vault: vault, time: host.time, pool: host.pool, host: host.name)
            let point = try await taker.take(asked)
            await vault.settleCopies(host.log)
            return point
          }
        })
    } catch { outcome = .failure(error) }
    await host.pool.run { try? Files.removeTree(scratch) }
    do {
      let point = try outcome.get()
      // One whose hold lapsed may have lost its connection.
      if point.mode == .fuzzy { await group.sessions.close() }
      return point
    } catch {
      await group.sessions.close()
      throw error
    }
  }

  private func thinOut(_ target: Backup.Target, _ options: Options) async throws -> Int {
    let vault = try await system.vault(of: target.repository)
    let (time, pool, keepsAll) = (system.host.time, system.host.pool, options.keepsAll)
    return try await vault.withLock(wait: .seconds(30)) {
      try await PointCatalog(vault: vault, pool: pool).thinOut(target.group, now: time.now(), keepingAll: keepsAll)
    }
  }

  /// Waits until every store of a point can be brought there.
  ///
  /// - Returns: Those that can't yet, and why.
  package func unreached(_ point: RecoveryPoint, within limit: Duration) async throws(AnyFailure) -> [StoreName: String]
  {
    do {
      let end = system.host.time.monotonicNanoseconds() + limit.wholeNanoseconds
      while true {
        var missing: [StoreName: String] = [:]
        for (store, logged) in point.logged ?? [:] {
          let ways = try await Logs(system).ways(of: store)
          do throws(RecoveryError) { _ = try ways.to(.mark(logged.position)) } catch {
            missing[store] = error.report.summary
          }
        }
        if missing.isEmpty || system.host.time.monotonicNanoseconds() >= end { return missing }
        try await system.host.time.sleep(for: .milliseconds(300))
      }
    } catch { throw AnyFailure(error) }
  }
}
