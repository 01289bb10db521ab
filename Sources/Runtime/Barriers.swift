import Catalog
import Core
import DriverKit
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

  /// The groups that would be marked.
  ///
  /// - Throws: ``RecoveryError/logNotFollowed(_:)`` for a store that would have to be copied.
  package func targets(_ options: Options) throws(RecoveryError) -> [Backup.Target] {
    var backup = Backup.Options()
    (backup.groups, backup.holdBudget) = (options.groups, options.holdBudget)
    var targets = try Backup(system, journal: journal).targets(backup)
    // Unless they were asked for, groups that can't be marked are none of these.
    if options.groups.isEmpty {
      let all = targets
      targets = []
      for target in all where try unmarked(in: target).isEmpty { targets.append(target) }
      if targets.isEmpty, let store = all.first?.stores.first { throw .logNotFollowed(store) }
    }
    for target in targets { if let store = try unmarked(in: target).first { throw .logNotFollowed(store) } }
    return targets
  }

  private func unmarked(in target: Backup.Target) throws(RecoveryError) -> [StoreName] {
    var result: [StoreName] = []
    for name in target.stores where try system.driver(of: name).marking() == nil { result.append(name) }
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
    var members: [StoreName: PointTaker.Member] = [:]
    for name in target.stores {
      guard let store = system.catalog.store(name) else { throw RecoveryError.noSuchStore(name) }
      members[name] = PointTaker.Member(driver: try system.driver(of: name), kind: store.driver)
    }
    let barrier = Barrier(
      Barrier.Request(
        group: target.group, members: members,
        policy: options.holds ? .hold(budget: options.holdBudget ?? target.holdBudget) : .none(apart: options.apart),
        onOverBudget: target.onOverBudget), time: system.host.time)
    let outcome: Result<Void, any Error>
    do { outcome = .success(try await run(target, barrier, options, report)) } catch { outcome = .failure(error) }
    await barrier.close()
    if Task.isCancelled, options.every != nil { return }
    try outcome.get()
  }

  private func run(
    _ target: Backup.Target, _ barrier: Barrier, _ options: Options, _ report: @escaping @Sendable (News) -> Void
  ) async throws {
    let (time, group) = (system.host.time, target.group)
    guard let every = options.every else {
      let point = try await take(target, barrier, options)
      report(.taken(point))
      return
    }
    let start = time.monotonicNanoseconds()
    var (number, thinned): (Int64, Int64) = (0, start)
    var left = options.count ?? .max
    while left > 0 {
      left -= 1
      do { report(.taken(try await take(target, barrier, options))) } catch {
        if Task.isCancelled { return }
        report(.trouble(group, AnyFailure(error).report))
      }
      let now = time.monotonicNanoseconds()
      if Duration.nanoseconds(now - thinned) >= .seconds(60) {
        thinned = now
        // What can't be removed now is there the next time.
        if let count = try? await thinOut(target, options), count > 0 { report(.thinned(group, count)) }
      }
      // One that took too long is not made up for.
      number = max(number + 1, (time.monotonicNanoseconds() - start) / every.wholeNanoseconds)
      let pause = start + number * every.wholeNanoseconds - time.monotonicNanoseconds()
      if left > 0, pause > 0 { do { try await time.sleep(for: .nanoseconds(pause)) } catch { return } }
    }
  }

  private func take(
    _ target: Backup.Target, _ barrier: Barrier, _ options: Options
  ) async throws -> RecoveryPoint {
    let (system, host) = (system, system.host)
    // A restore that is at work, or was left half-way, makes a state that nobody has proved.
    return try await journal.whileReading(Set(target.stores), time: host.time) {
      let outcome = try await barrier.take()
      let point = barrier.point(of: outcome, name: options.name, catalog: system.catalog.digest, host: host.name)
      let vault = try await system.vault(of: target.repository)
      try await vault.withLock(wait: .seconds(30)) {
        try await PointCatalog(vault: vault, pool: host.pool).record(
          point, catalogFiles: system.loaded.travelling)
        await vault.settleCopies(host.log)
      }
      return point
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
