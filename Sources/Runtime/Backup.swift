import Catalog
import Core
import DriverKit
import IO
import Recovery
import StateKit
import Synchronization
import Telemetry
import Vault

/// Takes recovery points of a managed system.
package struct Backup: Sendable {
  package struct Options: Sendable {
    /// Groups to take; empty means all, and every store that is in none.
    package var groups: Set<GroupName> = []
    /// `false` marks without holding anyone: a fuzzy point, for what must not wait at all.
    package var holds = true
    /// Without holding: how long to wait between the mark of one store and the next; for negative controls.
    package var apart: Duration = .zero
    /// Takes the place of the groups' own budget.
    package var holdBudget: Duration?
    package var wantsContentDigests = true

    package init() {}
  }

  private let system: ManagedSystem
  private let journal: any RunJournal

  package init(_ system: ManagedSystem, journal: any RunJournal) { (self.system, self.journal) = (system, journal) }

  /// What one point would be of.
  package struct Target: Sendable, Equatable, Codable {
    package var group: GroupName
    package var stores: [StoreName]
    package var repository: RepositoryName
    package var holdBudget: Duration
    package var onOverBudget: ConsistencyGroup.OverBudget
  }

  /// The points a backup would take, in order: declared groups first, then stores on their own.
  package func targets(_ options: Options = Options()) throws(RecoveryError) -> [Target] {
    var targets: [Target] = []
    for group in system.catalog.groups {
      targets += try target(group.name, group.stores, group.holdBudget, group.onOverBudget)
    }
    for store in system.catalog.stores where system.catalog.group(of: store.name) == nil {
      targets += try target(GroupName(unchecked: store.name.text), [store.name], .milliseconds(500), .fail)
    }
    guard !options.groups.isEmpty else { return targets }
    for name in options.groups where !targets.contains(where: { $0.group == name }) { throw .noSuchGroup(name) }
    return targets.filter { options.groups.contains($0.group) }
  }

  private func target(
    _ name: GroupName, _ stores: [StoreName], _ budget: Duration, _ onOverBudget: ConsistencyGroup.OverBudget
  ) throws(RecoveryError) -> [Target] {
    let repositories = Set(stores.compactMap { system.catalog.store($0)?.repository })
    guard repositories.count == 1, let repository = repositories.first else {
      throw .groupAcrossRepositories(name, repositories.sorted())
    }
    return [
      Target(
        group: name, stores: stores, repository: repository, holdBudget: budget, onOverBudget: onOverBudget)
    ]
  }

  /// Takes one point, under the repository's lock, while no restore touches the stores.
  ///
  /// - Throws: ``RunsError/unfinished(_:stores:)`` if a restore of one is at work, or was interrupted half-way: a state
  ///   that nobody has proved is no point to come back to.
  package func take(
    _ target: Target, _ options: Options = Options(),
    progress: @escaping @Sendable (StoreName, Progress) -> Void = { _, _ in }
  ) async throws(AnyFailure) -> RecoveryPoint {
    let details: JSONValue = [
      "catalogDigest": .string(system.catalog.digest.hex), "repository": .string(target.repository.text),
      "stores": .array(target.stores.map { .string($0.text) }),
    ]
    @Sendable func onRecord(
      _ body: (RecordedAct) async throws -> (RecoveryPoint, JSONValue)
    ) async throws(AnyFailure) -> RecoveryPoint {
      try await RecordedAct.carryOut(
        .backup, "backup/\(target.group)", details: details, host: system.host, journal: journal, body)
    }
    let began = Mutex(false)
    do {
      let vault = try await system.vault(of: target.repository)
      // One lock for the point and for the copy of its evidence; stores are asked while it becomes certain.
      return try await vault.withLock(exclusive: false, startsEarly: true) {
        began.withLock { $0 = true }
        let point = try await onRecord { act in
          let point = try await capture(target, options, into: vault, progress: progress)
          _ = try await EvidenceArchive(host: system.host).record(point, of: act, in: system, journal: journal)
          return (point, point.outcome)
        }
        await EvidenceLog(host: system.host, journal: journal).copyOrWarn(toHeld: vault)
        return point
      }
    } catch {
      if began.withLock({ $0 }) { throw AnyFailure(error) }
      // That it could not even begin is on record too.
      return try await onRecord { _ in throw error }
    }
  }

  private func capture(
    _ target: Target, _ options: Options, into vault: Vault.Repository,
    progress: @escaping @Sendable (StoreName, Progress) -> Void
  ) async throws(AnyFailure) -> RecoveryPoint {
    do {
      var members: [StoreName: PointTaker.Member] = [:]
      for name in target.stores {
        guard let store = system.catalog.store(name) else { throw RecoveryError.noSuchStore(name) }
        members[name] = PointTaker.Member(driver: try system.driver(of: name), kind: store.driver)
      }
      let host = system.host
      let scratch = host.scratch(for: target.group)
      try await host.pool.run { () throws(SystemFailure) in
        try host.removeDeadScratch()
        try Files.createDirectory(scratch, mode: 0o711)
      }
      let budget = options.holdBudget ?? target.holdBudget
      var request = PointTaker.Request(
        group: target.group, members: members,
        policy: options.holds ? .hold(budget: budget) : .none(apart: options.apart),
        onOverBudget: target.onOverBudget, catalogDigest: system.catalog.digest,
        catalogFiles: system.loaded.travelling, scratch: scratch, wantsContentDigests: options.wantsContentDigests,
        progress: progress)
      let facts = PointFactsAsked(system, stores: target.stores)
      if !facts.isEmpty { request.measure = { await facts.ask() } }
      let asked = request
      let taker = PointTaker(vault: vault, time: host.time, pool: host.pool, host: host.name)
      let outcome: Result<RecoveryPoint, any Error>
      do {
        outcome = .success(
          try await journal.whileReading(Set(target.stores), time: host.time) {
            let point = try await taker.take(asked)
            await vault.settleCopies(host.log)
            return point
          })
      } catch {
        outcome = .failure(error)
      }
      await host.pool.run { try? Files.removeTree(scratch) }
      return try outcome.get()
    } catch {
      throw AnyFailure(error)
    }
  }
}

extension RecoveryPoint {
  /// What the audit chain says of one that was taken.
  var outcome: JSONValue {
    [
      "point": .string(id.text), "mode": .string(mode.rawValue), "pauseNanoseconds": .integer(pauseNanoseconds),
      "snapshots": .object(
        Dictionary(uniqueKeysWithValues: stores.map { ($0.key.text, JSONValue.string($0.value.snapshot)) })),
    ]
  }
}

extension Machine {
  /// A directory of this process's own, named so that the next one can tell whether it is still in use.
  func scratch(for group: GroupName) -> String {
    let owner = ProcessIdentity.current.description.replacing("/", with: "+")
    return path("scratch/\(owner)+\(group)-\(time.monotonicNanoseconds())")
  }

  /// Removes what backups left that were killed. Blocks.
  func removeDeadScratch() throws(SystemFailure) {
    let directory = path("scratch")
    guard Files.exists(directory) else { return }
    for name in try Files.names(in: directory).map(\.lossyText) {
      let parts = name.split(separator: "+", omittingEmptySubsequences: false)
      guard parts.count == 5, let owner = ProcessIdentity(parts.prefix(4).joined(separator: "/")), owner.isGone else {
        continue
      }
      try Files.removeTree("\(directory)/\(name)")
    }
  }
}
