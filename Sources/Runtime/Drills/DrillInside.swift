import Catalog
import Core
import Drills
import DriverKit
import IO
import ObjectStoreOverlay
import Planning
import Recovery
import StateKit
import Synchronization
import Vault

#if canImport(Glibc)
  import Glibc
#endif

/// A drill as it goes in its room: the steps of a real restore, on the engines, with nothing of production in reach.
package struct DrillInside: Sendable {
  let job: DrillJob
  let host: Machine

  /// - Parameter path: The job, in the drill's own directory.
  init(_ job: DrillJob, pool: BlockingPool) {
    self.job = job
    var host = Machine(
      time: ShiftedTime(nanoseconds: job.clockNanoseconds), pool: pool, environment: job.variables, name: job.host,
      stateDirectory: "\(job.room.directory)/state")
    host.isDrill = true
    if job.fault?.kind == .wrongClock {
      // A battery that ran out: the machine wakes up years ago.
      host.time = ShiftedTime(nanoseconds: job.clockNanoseconds - Duration.seconds(5 * 366 * 86_400).wholeNanoseconds)
    }
    self.host = host
  }

  /// Carries the job at `path` out and writes the result beside it; what `salvor drill enter` does.
  ///
  /// Ends the process at once if whoever asked for it is gone.
  package static func run(jobFile path: String, pool: BlockingPool = .shared) async throws(AnyFailure) {
    do {
      let directory = Files.parent(of: path)
      let job = try await pool.run {
        try CanonicalJSON.decode(DrillJob.self, from: Files.read(path, limitBytes: 256 << 20))
      }
      guard job.room.directory == directory else { throw DrillError.notIsolated("the job is another directory's") }
      let inside = DrillInside(job, pool: pool)
      let result = try await withThrowingTaskGroup(of: DrillResult?.self) { group in
        group.addTask { await inside.result() }
        group.addTask {
          while true {
            try await SystemTime().sleep(for: .milliseconds(200))
            // The lock is theirs for as long as they live.
            if DrillPlace.isAbandoned(directory) { Glibc.exit(1) }
          }
        }
        defer { group.cancelAll() }
        while let ended = try await group.next() { if let ended { return ended } }
        throw CancellationError()
      }
      let bytes = try CanonicalJSON.encode(result)
      try await pool.run { () throws(SystemFailure) in try Files.replace("\(directory)/result.json", with: bytes) }
    } catch {
      throw AnyFailure(error)
    }
  }

  // MARK: The drill

  private func result() async -> DrillResult {
    var result = DrillResult()
    do {
      try await isolate(&result)
      try await practise(&result)
    } catch let stop as Stop {
      result.findings += stop.findings
    } catch {
      result.findings.append(DrillFinding(.restore, AnyFailure(error).report))
    }
    return result
  }

  private struct Stop: Error {
    var findings: [DrillFinding]
  }

  private func isolate(_ result: inout DrillResult) async throws {
    let room = job.room
    do {
      try await host.pool.run { () throws(DrillError) in try room.enter() }
    } catch { throw Stop(findings: [DrillFinding(.isolate, AnyFailure(error).report)]) }
    result.attempts = await host.pool.run { room.tryDoors() }
    let reached = result.attempts.filter(\.isReached).map(\.door)
    guard reached.isEmpty else {
      throw Stop(findings: [DrillFinding(.isolate, DrillError.reached(reached).report)])
    }
  }

  private func practise(_ result: inout DrillResult) async throws {
    let began = host.time.monotonicNanoseconds()
    func elapsed(since start: Int64) -> Double {
      Duration.nanoseconds(host.time.monotonicNanoseconds() - start).seconds
    }
    let waiting = CountedWaiting()
    var view = RepositoryView(locations: job.locations)
    for (name, path) in job.passwords {
      view.passwords[name] = try await host.secrets.resolve(.file(path))
    }
    var system = try await open(view, waiting)
    let point = try await chosen(system)
    try await plant(&view, &system, point, waiting, &result)
    // Read again, by eyes that see the damage.
    let stores = job.drill.stores
    try checkClock(point)
    try await read(point, stores, system)
    result.times.detect = elapsed(since: began)
    let deciding = host.time.monotonicNanoseconds()
    let restore = Restore(system, journal: try await Registry.journal(host))
    var prepared = try await prepare(restore, point)
    if job.drill.level == .store { prepared.plan.keepStores(stores) }
    result.times.decide = elapsed(since: deciding)
    try await carryOut(restore, prepared, waiting, &result)
  }

  /// The system as the drill sees it.
  private func open(_ view: RepositoryView, _ waiting: CountedWaiting) async throws -> ManagedSystem {
    do {
      var files = job.catalogFiles.map { SourceFile(path: $0.key, text: $0.value) }
      if files.isEmpty { files = try await catalogOfMirror(view) }
      let loaded = try CatalogFiles.resolve(files, below: "")
      return try system(loaded, view, waiting)
    } catch let stop as Stop { throw stop } catch {
      throw Stop(findings: [DrillFinding(.open, AnyFailure(error).report)])
    }
  }

  func system(
    _ loaded: LoadedCatalog, _ view: RepositoryView, _ waiting: CountedWaiting
  ) throws(AnyFailure) -> ManagedSystem {
    var view = view
    if job.fault?.kind == .slowStore {
      // Far longer than any objective: a tape that has to be fetched.
      let objective = loaded.catalog.services.compactMap(\.objectives.rto).max() ?? .seconds(3600)
      view.reading = { bytes in if bytes > 0 { waiting.add(objective) } }
    }
    let (target, run, secrets) = (job.target, job.fault?.run, host.secrets)
    return try ManagedSystem(loaded, host: host, vaults: Vaults(host: host, view: view)) { name, driver in
      guard job.fault?.kind == .staleSchema, name == target, let run else { return driver }
      return SabotagedDriver(base: driver) { () async throws(DriverError) in
        do {
          let answer = try await execute(run, secrets)
          guard answer.status != 0 else { return }
          throw DriverError.engineFailed(
            run.words.first ?? "", log: "it ended with status \(answer.status): \(answer.output.prefix(500))")
        } catch { throw DriverError(error) }
      }
    }
  }

  /// All that is left of a region: the catalog its mirror keeps with the newest point.
  private func catalogOfMirror(_ view: RepositoryView) async throws -> [SourceFile] {
    guard let (name, location) = view.locations.min(by: { $0.key < $1.key }), let password = view.passwords[name] else {
      throw DrillError.noPoint(job.drill.name, why: "no mirror was named")
    }
    let vault = try await Vault.Repository.open(
      store: OverlayObjectStore(try Registry.store(at: location.description, host: host)), password: password,
      settings: host.vaultSettings)
    let points = PointCatalog(vault: vault, pool: host.pool)
    guard let newest = try await points.list().points.max(by: { ($0.time, $0.id) < ($1.time, $1.id) }) else {
      throw DrillError.noPoint(job.drill.name, why: "the mirror has none")
    }
    return try await points.catalogFiles(of: newest.id).map {
      SourceFile(path: $0.key.description, text: String(decoding: $0.value, as: UTF8.self))
    }
  }

  /// The points whose copies are practised with, one for each group.
  private func chosen(_ system: ManagedSystem) async throws -> [RecoveryPoint] {
    do {
      var found: [RecoveryPoint] = []
      for repository in system.repositories {
        let points = try await PointCatalog(vault: try await system.vault(of: repository.name), pool: host.pool).list()
        let fitting = points.points.filter { point in
          !point.members.isDisjoint(with: job.drill.stores) && job.point.map { point.id.text == $0 } ?? true
        }
        // Of each group the newest.
        let newest = Dictionary(fitting.map { ($0.group, $0) }, uniquingKeysWith: { $0.time < $1.time ? $1 : $0 })
        found += newest.values
      }
      let missing = Set(job.drill.stores).subtracting(found.flatMap(\.members))
      guard missing.isEmpty else {
        throw DrillError.noPoint(
          job.drill.name, why: "no point has \(missing.sorted().map(\.text).joined(separator: ", "))")
      }
      return found.sorted { $0.id < $1.id }
    } catch { throw Stop(findings: [DrillFinding(.open, AnyFailure(error).report)]) }
  }

  /// A clock that is behind what was written before: what it says of ages and objectives is worth nothing.
  private func checkClock(_ points: [RecoveryPoint]) throws {
    let now = host.time.now()
    guard let future = points.first(where: { $0.time > now + .seconds(60) }) else { return }
    let why = "it says \(now.format(fractionDigits: 0)), and point \(future.id) was taken at \(future.time)"
    throw Stop(findings: [DrillFinding(.clock, DrillError.clock(why).report)])
  }

  /// Reads every byte that would be restored.
  private func read(_ points: [RecoveryPoint], _ stores: [StoreName], _ system: ManagedSystem) async throws {
    var findings: [DrillFinding] = []
    for store in stores {
      do {
        guard let point = points.first(where: { $0.members.contains(store) }),
          let repository = system.catalog.store(store)?.repository
        else { continue }
        let (resolved, forwards) = try await PointSelection(system: system).resolved(point)
        guard let part = resolved.stores[store], let id = Digest(hex: part.snapshot) else { continue }
        let vault = try await system.vault(of: repository)
        let origin = forwards.first { $0.store == store }?.point ?? point.id
        let snapshot = try await vault.loadSnapshot(id, orCopyTagged: "point:\(origin)")
        try await SnapshotTree(reader: vault, root: snapshot.tree, pool: host.pool).verify()
      } catch {
        findings.append(DrillFinding(.read, AnyFailure(error).report, stores: [store]))
      }
    }
    if job.fault?.kind == .missingLog, let target = job.target, let goal = goal.value {
      do { _ = try await Logs(system).forwards(target, to: .mark(goal)) } catch {
        findings.append(DrillFinding(.read, AnyFailure(error).report, stores: [target]))
      }
    }
    guard findings.isEmpty else { throw Stop(findings: findings) }
  }

  /// Where the log led before something was taken out of it.
  let goal = Kept<LogPosition>()

  private func prepare(_ restore: Restore, _ points: [RecoveryPoint]) async throws -> Restore.Prepared {
    do {
      var request = Restore.Request()
      request.services = job.drill.level >= .system ? [] : Set(job.drill.services)
      request.point = points.count == 1 ? points[0].id.text : nil
      request.verifies = false
      request.allowsBrokenLinks = job.drill.level <= .service
      request.failedAt = host.time.now()
      let prepared = try await restore.prepare(request)
      guard prepared.plan.isRunnable else { throw PlanError.refused(prepared.plan.refusals) }
      return prepared
    } catch { throw Stop(findings: [DrillFinding(.plan, AnyFailure(error).report)]) }
  }

  // MARK: Restoring

  private func carryOut(
    _ restore: Restore, _ prepared: Restore.Prepared, _ waiting: CountedWaiting, _ result: inout DrillResult
  ) async throws {
    var prepared = prepared
    prepared.input.plan = prepared.plan
    let before = waiting.seconds
    let outcome: RestoreOutcome
    let run: RunRecord
    do {
      outcome = try await restore.run(prepared) { _ in }
      run = try await restore.journal.load(outcome.run)
    } catch { throw Stop(findings: flattened(AnyFailure(error).report, restore.system)) }
    let waited = waiting.seconds - before
    for step in run.spec.steps {
      if let measurement = run.steps[step.id]?.measurement { result.measurements[step.id.text] = measurement }
    }
    result.checks = outcome.checks.count
    result.compared = outcome.comparisons.count { $0.isCompared }
    result.notCompared = outcome.comparisons.filter { !$0.isCompared }.map(\.store)
    result.times.take(run, waited: waited + job.fetchedSeconds)
    result.times.fetch = job.fetchedSeconds > 0 ? job.fetchedSeconds : nil
    let gone = restore.system.catalog.services.flatMap { service in
      service.validators.compactMap { validator -> String? in
        guard case .workflow(let name) = validator.question else { return nil }
        let check = outcome.checks.first {
          $0.name == validator.name.text && $0.detail["subject"]?.string == service.name.text
        }
        return check.map { "\(service.name)/\(name): \($0.summary)" }
      }
    }
    result.workflows = gone.isEmpty ? nil : gone
    for service in outcome.services {
      var one = DrillRecord.ServiceResult(
        service: service.service, isBack: outcome.state == .succeeded && service.rtoSeconds != nil)
      (one.rpoSeconds, one.rpoObjectiveSeconds) = (service.rpoSeconds, service.rpoObjectiveSeconds)
      (one.rtoSeconds, one.rtoObjectiveSeconds) = (
        service.rtoSeconds.map { $0 + waited + job.fetchedSeconds }, service.rtoObjectiveSeconds
      )
      result.results.append(one)
    }
    guard outcome.state == .succeeded else {
      let failure = outcome.failure ?? DrillError.interrupted("the restore is \(outcome.state.rawValue)").report
      throw Stop(findings: flattened(failure, restore.system))
    }
    var findings: [DrillFinding] = []
    // A check that could not be made is none that passed, though a restore may go on after a warning.
    for check in outcome.checks where check.verdict == .couldNotCheck {
      findings.append(
        DrillFinding(
          .validate, RecoveryError.validationFailed("the system", [check]).report,
          stores: stores(of: check.name, restore.system.catalog)))
    }
    if job.drill.level >= .service {
      for one in result.results {
        if !one.isBack {
          let why = "was started, and nothing asks whether it works"
          findings.append(DrillFinding(.validate, DrillError.objective(one.service, why).report))
        }
        // What it loses depends on when the drill is made; how long it takes does not.
        guard let seconds = one.rtoSeconds, let objective = one.rtoObjectiveSeconds, seconds > objective else {
          continue
        }
        let why =
          "is back after \(Duration.seconds(seconds).brief), and may be away for \(Duration.seconds(objective).brief)"
        findings.append(DrillFinding(.objective, DrillError.objective(one.service, why).report))
      }
    } else if waited > 0 {
      let why = "waits \(Duration.seconds(waited).brief) for its copies"
      for service in job.drill.services {
        findings.append(DrillFinding(.objective, DrillError.objective(service, why).report))
      }
    }
    guard findings.isEmpty else { throw Stop(findings: findings) }
    result.isComplete = true
  }

  /// A failure, and everything it was made of.
  private func flattened(_ report: Report, _ system: ManagedSystem) -> [DrillFinding] {
    let catalog = system.catalog
    func named(in text: String) -> [StoreName] { catalog.stores.map(\.name).filter { text.hasPrefix("\($0): ") } }
    switch report.code {
    case "RESTORE-102":
      guard let reports = try? report.details?.decoded(as: [Report].self), !reports.isEmpty else { break }
      return reports.map { DrillFinding(.restore, $0, stores: named(in: $0.summary)) }
    case "RESTORE-201":
      guard let checks = try? report.details?.decoded(as: [Recovery.CheckOutcome].self) else { break }
      let bad = checks.filter { $0.verdict == .failed || $0.verdict == .couldNotCheck }
      guard !bad.isEmpty else { break }
      return bad.map { check in
        DrillFinding(
          .validate, RecoveryError.validationFailed("the system", [check]).report,
          stores: stores(of: check.name, catalog))
      }
    case "RESTORE-301":
      let service = catalog.services.first { report.summary.hasPrefix("\($0.name) ") }
      return [DrillFinding(.validate, report, stores: service?.stores ?? [])]
    default: break
    }
    return [DrillFinding(.restore, report, stores: named(in: report.summary))]
  }

  /// Those that a check of this name asks, itself or through its service.
  private func stores(of check: String, _ catalog: Catalog) -> [StoreName] {
    if let invariant = catalog.invariants.first(where: { $0.name.text == check }) { return invariant.stores }
    var result: Set<StoreName> = []
    for service in catalog.services {
      for validator in service.validators
      where validator.name.text == check || "\(service.name)/\(validator.name)" == check {
        if case .sql(let store, _) = validator.question {
          result.insert(store)
        } else {
          result.formUnion(service.stores)
        }
      }
    }
    return result.sorted()
  }
}

/// A value that is settled once, on the way.
final class Kept<Value: Sendable>: Sendable {
  private let stored = Mutex<Value?>(nil)
  var value: Value? { stored.withLock { $0 } }
  func keep(_ value: Value) { stored.withLock { $0 = value } }
}

extension DrillRecord.Times {
  /// From the steps of a restore.
  mutating func take(_ run: RunRecord, waited: Double) {
    func ends(_ actions: Set<RestoreAction>) -> [Timestamp] {
      run.spec.steps.compactMap { step in
        guard let action = RestoreAction(kind: step.kind), actions.contains(action) else { return nil }
        return run.steps[step.id]?.measurement?.finishedAt
      }
    }
    let start = run.steps.values.compactMap { $0.measurement?.startedAt }.min() ?? run.head.createdAt
    let restored = ends([.startStore]).max() ?? ends([.restoreBeside]).max()
    restore = restored.map { max(0, ($0 - start).seconds) + waited }
    if let restored, let ready = ends([.readyService]).max() { serve = max(0, (ready - restored).seconds) }
    let checking = run.spec.steps.compactMap { step -> Double? in
      switch RestoreAction(kind: step.kind) {
      case .validateBeside, .checkInvariants, .validateService: run.steps[step.id]?.measurement?.duration.seconds
      default: nil
      }
    }
    validate = checking.isEmpty ? nil : checking.reduce(0, +)
  }
}

extension RestorePlan {
  /// Only what brings these stores back beside, and proves them there.
  mutating func keepStores(_ wanted: [StoreName]) {
    let actions: Set<RestoreAction> = [.precheck, .restoreBeside, .validateBeside, .commit]
    let isWhole = Set(stores).isSubset(of: wanted)
    steps = steps.filter { step in
      actions.contains(step.action) && (step.store.map { wanted.contains($0) } ?? true)
    }
    let left = Set(steps.map(\.id))
    for index in steps.indices { steps[index].dependsOn.removeAll { !left.contains($0) } }
    if !isWhole { stores = stores.filter { wanted.contains($0) } }
    (services, invariants) = ([], [])
  }
}
