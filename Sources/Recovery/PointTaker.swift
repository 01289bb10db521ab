import Catalog
import Core
import DriverKit
import IO
import Telemetry
import Vault

/// Takes recovery points: captures every store of a group around one cut, and writes it all into the vault.
///
/// The order on disk is what makes a crash harmless: blobs, indexes, the stores' snapshots, and the point's own snapshot
/// last. A point exists once that one does; before it there are only snapshots that no point names.
package struct PointTaker: Sendable {
  private let vault: Vault.Repository
  private let time: any Timekeeper
  private let pool: BlockingPool
  private let host: String

  package init(vault: Vault.Repository, time: any Timekeeper, pool: BlockingPool, host: String) {
    (self.vault, self.time, self.pool, self.host) = (vault, time, pool, host)
  }

  /// One store of the group.
  package struct Member: Sendable {
    package var driver: any DataStoreDriver
    package var kind: DriverName

    package init(driver: any DataStoreDriver, kind: DriverName) { (self.driver, self.kind) = (driver, kind) }
  }

  package struct Request: Sendable {
    package var group: GroupName
    /// Those that are copied.
    package var members: [StoreName: Member]
    /// Those that are only marked, for their logs are followed; connected already.
    package var marked: [StoreName: (kind: DriverName, member: Cut.Member)] = [:]
    /// What the point is called.
    package var name: String?
    package var policy: Cut.HoldPolicy
    /// What becomes of a point whose stores couldn't be held in time: a failure, or a fuzzy point that says so.
    package var onOverBudget: ConsistencyGroup.OverBudget
    package var catalogDigest: Digest
    /// The catalog's files, by path; they travel with the point.
    package var catalogFiles: [TreePath: [UInt8]]
    /// A directory for temporary files.
    package var scratch: String
    package var wantsContentDigests: Bool
    /// Asked once everything is prepared, right before anyone has to wait.
    package var measure: @Sendable () async -> RecoveryPoint.Measured? = { nil }
    package var progress: @Sendable (StoreName, Progress) -> Void

    package init(
      group: GroupName, members: [StoreName: Member], policy: Cut.HoldPolicy,
      onOverBudget: ConsistencyGroup.OverBudget = .fail, catalogDigest: Digest, catalogFiles: [TreePath: [UInt8]],
      scratch: String, wantsContentDigests: Bool = true,
      progress: @escaping @Sendable (StoreName, Progress) -> Void = { _, _ in }
    ) {
      self.group = group
      self.members = members
      self.policy = policy
      self.onOverBudget = onOverBudget
      self.catalogDigest = catalogDigest
      self.catalogFiles = catalogFiles
      self.scratch = scratch
      self.wantsContentDigests = wantsContentDigests
      self.progress = progress
    }
  }

  /// Takes one point.
  ///
  /// - Throws: ``RecoveryError``; nobody waits then, and no point was recorded.
  package func take(_ request: Request) async throws(RecoveryError) -> RecoveryPoint {
    let polynomial = vault.config.chunkerPolynomial
    var members: [StoreName: CaptureInProgress] = [:]
    for (name, member) in request.members {
      members[name] = CaptureInProgress(
        name: name, member: member,
        builder: SnapshotBuilder(writer: vault, polynomial: polynomial, pool: pool, reader: vault),
        scratch: "\(request.scratch)/\(name)", wantsDigest: request.wantsContentDigests, time: time, pool: pool,
        earlier: EarlierCaptures(vault: vault, pool: pool)
      ) { done in request.progress(name, Progress("copy", doneBytes: done)) }
    }
    let result = await outcome(of: members, for: request)
    for member in members.values { await member.close() }
    return try result.get()
  }

  private func outcome(
    of members: [StoreName: CaptureInProgress], for request: Request
  ) async -> Result<RecoveryPoint, RecoveryError> {
    do throws(RecoveryError) { return .success(try await capture(members, for: request)) } catch {
      // Whichever store noticed first, it was not its fault.
      if Task.isCancelled { return .failure(.cancelled) }
      guard case .vault(let report) = error else { return .failure(error) }
      return .failure(.vault(report.state("no point was recorded; what reached the vault is reused by the next try")))
    }
  }

  private func capture(
    _ members: [StoreName: CaptureInProgress], for request: Request
  ) async throws(RecoveryError) -> RecoveryPoint {
    let prepared = try await each(members) { (member) async throws(DriverError) in try await member.prepare() }
    let measured = await request.measure()
    let cut = try await cut(prepared.merging(request.marked.mapValues(\.member)) { copied, _ in copied }, for: request)
    let finished = try await each(members) { (member) async throws(DriverError) in try await member.finish() }

    let id = PointID(time: cut.time, group: request.group, catalog: request.catalogDigest, marks: cut.marks)
    try await vaulted { () async throws in try await vault.flush() }
    var stores: [StoreName: StorePoint] = [:]
    for (name, capture) in finished.sorted(by: { $0.key < $1.key }) {
      guard let kind = request.members[name]?.kind, let outside = cut.cuts[name] else { continue }
      var timings = cut.timings[name] ?? StorePoint.Timings()
      (timings.prepare, timings.finish) = (capture.prepareNanoseconds, capture.finishNanoseconds)
      let snapshot = Snapshot(
        time: cut.time, tree: capture.tree.root, paths: ["/\(name)"], hostname: host,
        tags: ["salvor", "store:\(name)", "driver:\(kind)", "group:\(request.group)", "point:\(id)"])
      let stored = try await vaulted { () async throws in try await vault.save(snapshot) }
      stores[name] = StorePoint(
        driver: kind, cut: outside, snapshot: stored.hex, capture: capture.result, timings: timings,
        addedBytes: capture.tree.totals.addedBytes + capture.tree.totals.addedTreeBytes)
    }
    var logged: [StoreName: LoggedPoint] = [:]
    for (name, marked) in request.marked {
      guard let position = cut.marks[name], let outside = cut.cuts[name] else { continue }
      logged[name] = LoggedPoint(
        driver: marked.kind, cut: outside, position: position, timings: cut.timings[name] ?? .init())
    }
    let point = RecoveryPoint(
      id: id, group: request.group, time: cut.time, mode: cut.mode, remarks: cut.remarks,
      pauseNanoseconds: cut.pause.wholeNanoseconds, holdBudgetNanoseconds: request.policy.budget.wholeNanoseconds,
      catalogDigest: request.catalogDigest, host: host, stores: stores, logged: logged.isEmpty ? nil : logged,
      name: request.name, measured: measured)
    try await PointCatalog(vault: vault, pool: pool).record(point, catalogFiles: request.catalogFiles)
    return point
  }

  private func cut(
    _ members: [StoreName: Cut.Member], for request: Request
  ) async throws(RecoveryError) -> Cut.Outcome {
    try await Cut(members, policy: request.policy, time: time).take(onOverBudget: request.onOverBudget)
  }

  /// Runs one phase on all members side by side; the first failure of each is told, all are waited for.
  private func each<T: Sendable>(
    _ members: [StoreName: CaptureInProgress],
    _ phase: @escaping @Sendable (CaptureInProgress) async throws(DriverError) -> T
  ) async throws(RecoveryError) -> [StoreName: T] {
    let results = await withTaskGroup(of: (StoreName, Result<T, DriverError>).self) { group in
      for (name, member) in members {
        group.addTask {
          do throws(DriverError) { return (name, .success(try await phase(member))) } catch {
            return (name, .failure(error))
          }
        }
      }
      return await group.reduce(into: [StoreName: Result<T, DriverError>]()) { $0[$1.0] = $1.1 }
    }
    var values: [StoreName: T] = [:]
    var failures: [StoreName: Report] = [:]
    for (name, result) in results {
      switch result {
      case .success(let value): values[name] = value
      case .failure(let error): failures[name] = error.report
      }
    }
    if Task.isCancelled { throw .cancelled }
    guard failures.isEmpty else { throw .captureFailed(failures) }
    return values
  }
}

extension Cut {
  /// - Parameter onOverBudget: What becomes of a cut whose stores couldn't be held in time.
  func take(onOverBudget: ConsistencyGroup.OverBudget) async throws(RecoveryError) -> Outcome {
    do throws(RecoveryError) { return try await take() } catch {
      guard case .notHeld(_, let pause) = error, onOverBudget == .record else { throw error }
      var outcome = try await Cut(members, policy: .none, time: time).take()
      outcome.pause = pause
      outcome.remarks.insert("over budget: \(error.report.summary)", at: 0)
      return outcome
    }
  }
}

extension Cut.HoldPolicy {
  var budget: Duration {
    switch self {
    case .hold(let budget): budget
    case .none: .zero
    }
  }
}

/// Calls the vault, and passes its reason on.
func vaulted<T: Sendable>(_ body: () async throws -> T) async throws(RecoveryError) -> T {
  do { return try await body() } catch {
    let failure = AnyFailure(error)
    throw failure.isCancellation ? .cancelled : .vault(failure.report)
  }
}
