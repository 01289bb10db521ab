import Catalog
import Core
import DriverKit
import Recovery
import Vault

/// Follows the logs of a system's stores into their repositories.
package struct Follow: Sendable {
  private let system: ManagedSystem

  package init(_ system: ManagedSystem) { self.system = system }

  /// The stores to follow, by repository.
  ///
  /// - Parameter names: Those that are meant; empty means every store that has a log.
  package func targets(_ names: Set<StoreName> = []) throws(RecoveryError) -> [RepositoryName: [StoreName]] {
    for name in names {
      guard try system.driver(of: name).follower() != nil else { throw .logNotFollowed(name) }
    }
    var targets: [RepositoryName: [StoreName]] = [:]
    for store in system.catalog.stores where names.isEmpty || names.contains(store.name) {
      if try system.driver(of: store.name).follower() != nil {
        targets[store.repository, default: []].append(store.name)
      }
    }
    return targets
  }

  /// Follows until the caller is cancelled; then what came is written, and this returns as if nothing had happened.
  ///
  /// One lock of each repository is held: nothing that is being written can be pruned. It is given up for a while when
  /// somebody wants the repository alone.
  ///
  /// - Throws: What ended a store's following for good, or a repository's lock; the other stores went on until the end.
  package func run(
    _ targets: [RepositoryName: [StoreName]], options: LogKeeper.Options,
    report: @escaping @Sendable (StoreName, LogKeeper.News) -> Void
  ) async throws(AnyFailure) {
    do {
      try await Interruption.finishing { stopped in
        let stop = LogKeeper.Stop()
        let failure = await withTaskGroup(of: Ended.self) { group in
          group.addTask {
            for await _ in stopped {}
            // Cancelled: everything else has ended.
            if !Task.isCancelled { stop.come() }
            return .watch
          }
          for (repository, stores) in targets {
            group.addTask {
              do { try await keep(stores, in: repository, options, stop, report) } catch {
                return .keeper(AnyFailure(error))
              }
              return .keeper(nil)
            }
          }
          var (left, failure) = (targets.count, AnyFailure?.none)
          while left > 0, let ended = await group.next() {
            guard case .keeper(let why) = ended else { continue }
            left -= 1
            failure = failure ?? why
          }
          group.cancelAll()
          return failure
        }
        if let failure { throw failure }
      }
    } catch { throw AnyFailure(error) }
  }

  private enum Ended: Sendable {
    case watch
    /// One repository's stores, or one of them, are no longer followed.
    case keeper(AnyFailure?)
  }

  /// Comes again after what passes: a repository that is away, a lock that was lost or is somebody's for a while.
  private func keep(
    _ stores: [StoreName], in repository: RepositoryName, _ options: LogKeeper.Options, _ stop: LogKeeper.Stop,
    _ report: @escaping @Sendable (StoreName, LogKeeper.News) -> Void
  ) async throws {
    var pause = options.pauses.first
    while true {
      do {
        try await keepOnce(stores, in: repository, options, stop, report)
        // Else somebody had the repository alone.
        if stop.isOver { return }
        pause = options.pauses.first
        continue
      } catch {
        let failure = AnyFailure(error)
        if failure.isCancellation || Task.isCancelled { throw error }
        for store in stores { report(store, .trouble(failure.report)) }
        let passes = failure.report.retry == .afterBackoff || ["VAULT-201", "VAULT-202"].contains(failure.report.code)
        guard passes, !stop.isOver else { throw error }
      }
      let end = system.host.time.monotonicNanoseconds() + pause.wholeNanoseconds
      while !stop.isOver, system.host.time.monotonicNanoseconds() < end {
        try await system.host.time.sleep(for: .milliseconds(50))
      }
      if stop.isOver { return }
      pause = min(pause * 2, .seconds(30))
    }
  }

  private func keepOnce(
    _ stores: [StoreName], in repository: RepositoryName, _ options: LogKeeper.Options, _ stop: LogKeeper.Stop,
    _ report: @escaping @Sendable (StoreName, LogKeeper.News) -> Void
  ) async throws {
    let vault = try await system.vault(of: repository)
    let host = system.host
    // Who has it alone may have it for long.
    try await vault.withLock(wait: .seconds(3600), yields: true) {
      let pause = LogKeeper.Stop(within: stop)
      let first = await withTaskGroup(of: Ended.self) { group in
        for store in stores {
          group.addTask {
            do { try await keeper(of: store, in: vault, options).run(until: pause) { report(store, $0) } } catch {
              report(store, .trouble(AnyFailure(error).report))
              return .keeper(AnyFailure(error))
            }
            return .keeper(nil)
          }
        }
        group.addTask {
          await standBack(of: vault, options, pause) { owner in
            for store in stores { report(store, .standingBack(for: owner)) }
          }
          return .watch
        }
        var (left, first) = (stores.count, AnyFailure?.none)
        while left > 0, let ended = await group.next() {
          guard case .keeper(let why) = ended else { continue }
          left -= 1
          first = first ?? why
        }
        group.cancelAll()
        return first
      }
      await vault.settleCopies(host.log)
      if let first { throw first }
    }
  }

  /// Looks whether somebody waits for the repository, and ends the following of its stores then.
  private func standBack(
    of vault: Vault.Repository, _ options: LogKeeper.Options, _ pause: LogKeeper.Stop, _ told: (String) -> Void
  ) async {
    while !pause.isOver {
      do { try await system.host.time.sleep(for: options.courtesy) } catch { return }
      // What can't be seen now is looked for again; that the lock is lost is found out elsewhere.
      guard let owner = try? await vault.isWanted() else { continue }
      told(owner)
      pause.come()
    }
  }

  private func keeper(
    of store: StoreName, in vault: Vault.Repository, _ options: LogKeeper.Options
  ) throws(RecoveryError) -> LogKeeper {
    guard let follower = try system.driver(of: store).follower(), let declared = system.catalog.store(store) else {
      throw .logNotFollowed(store)
    }
    let host = system.host
    return LogKeeper(
      archive: LogArchive(vault: vault, store: store, pool: host.pool), follower: follower, driver: declared.driver,
      host: host.name, time: host.time, options: options
    ) {
      let newest = try? await PointCatalog(vault: vault, pool: host.pool).list().points.last { $0.stores[store] != nil }
      guard let part = newest?.stores[store] else { return nil }
      return follower.cursor(of: part.capture.position, in: part.capture, among: [])
    }
  }
}
