import Catalog
import Core
import Drills
import DriverKit
import IO
import Planning
import Recovery
import StateKit
import Subprocess
import Vault

/// Carries drills out: chooses the point, makes the place, lets the drill's own process do it, judges, and records.
package struct DrillRunner: Sendable {
  package struct Request: Sendable {
    package var drill: Drill
    /// `nil` is a new one.
    package var seed: UInt64?
    package var fault: Drill.Fault?

    package init(_ drill: Drill, seed: UInt64? = nil, fault: Drill.Fault? = nil) {
      (self.drill, self.seed, self.fault) = (drill, seed, fault)
    }
  }

  private let system: ManagedSystem
  private let journal: any RunJournal
  /// This program, as it is started again inside.
  private let program: String
  private var host: Machine { system.host }

  package init(_ system: ManagedSystem, journal: any RunJournal, program: String) {
    (self.system, self.journal, self.program) = (system, journal, program)
  }

  /// Carries one drill out, and records what it came to. Whatever is wrong with the system is in the record.
  ///
  /// - Throws: Only what keeps the record from being made or kept.
  package func run(
    _ request: Request, progress: @escaping @Sendable (_ phase: String) -> Void = { _ in }
  ) async throws(AnyFailure) -> DrillRecord {
    do {
      _ = try await host.pool.run { [host] () throws(SystemFailure) in try DrillPlace.sweep(host) }
      let (drill, started) = (request.drill, host.time.now())
      let seed = request.seed ?? host.randomness.next()
      let basis = ["drill": drill.name.text, "at": started.description, "seed": "\(seed)"]
      let id = try RunID.derived(.drill, from: basis).text
      var record = DrillRecord(
        id: id, drill: drill, catalogDigest: system.catalog.digest, host: host.name, startedAt: started)
      var measurements: [String: StateKit.Measurement] = [:]
      do {
        try await requireNoIncident()
        progress("choose a point")
        record.point = try await choosePoint(drill, seed: seed)
        let plan = try await plan(drill, record.point, &record)
        if drill.level == .tabletop {
          readPlan(plan, &record)
        } else {
          let result = try await practise(request, seed, id, record.point, plan, progress)
          take(result, request, seed, &record)
          measurements = result.measurements
        }
      } catch {
        let report = AnyFailure(error).report
        record.findings.append(DrillFinding(report.code == "DRILL-304" ? .objective : .plan, report))
        record.verdict =
          switch report.code {
          case "DRILL-201", "CORE-001": .aborted
          // Known to take too long: that is a result.
          case "DRILL-304": .failed
          default: .couldNotRun
          }
      }
      record.finishedAt = host.time.now()
      progress("record")
      try await DrillHistory(journal, system).keep(record, measurements)
      return record
    } catch {
      throw AnyFailure(error)
    }
  }

  // MARK: Before

  /// A real restore has the right of way.
  private func requireNoIncident() async throws {
    let now = host.time.now()
    let filter = RunFilter(kinds: [.recovery], states: [.pending, .running, .rollingBack], limit: 100)
    for run in try await journal.list(filter) where run.head.isHeld(at: now) {
      throw DrillError.incident(run.id.text)
    }
  }

  /// - Returns: `nil` for the newest points of several groups, which are several.
  private func choosePoint(_ drill: Drill, seed: UInt64) async throws -> DrillRecord.Point? {
    let points = try await points(drill)
    let groups = Set(points.map(\.group))
    guard groups.count <= 1 else {
      guard drill.point == .latest else {
        throw DrillError.noPoint(
          drill.name, why: "its stores are in \(groups.count) groups, which have the newest only")
      }
      return nil
    }
    let candidates = points.map { DrillCandidate(id: $0.id.text, time: $0.time) }
    guard
      let point = chooseDrillPoint(
        candidates, drill.point, window: drill.window, now: host.time.now(), seed: seed)
    else {
      let why = candidates.isEmpty ? "there is none yet" : "none of \(candidates.count) lies in its window"
      throw DrillError.noPoint(drill.name, why: why)
    }
    return point
  }

  private func points(_ drill: Drill) async throws -> [RecoveryPoint] {
    var found: [RecoveryPoint] = []
    let wanted = Set(drill.stores)
    let vaults =
      drill.level == .region ? Vaults(host: host, view: RepositoryView(locations: try locations(drill))) : system.vaults
    for repository in system.catalog.repositories {
      let vault = try await vaults.open(repository)
      found += try await PointCatalog(vault: vault, pool: host.pool).list().points
    }
    return found.filter { !$0.members.isDisjoint(with: wanted) && $0.members.isSuperset(of: members(of: $0, wanted)) }
  }

  /// Those of the wanted stores that a point of this group has to have.
  private func members(of point: RecoveryPoint, _ wanted: Set<StoreName>) -> Set<StoreName> {
    wanted.filter { system.catalog.group(of: $0)?.name == point.group }
  }

  private func locations(_ drill: Drill) throws -> [RepositoryName: DeclaredRepository.Location] {
    guard drill.level == .region else { return [:] }
    var result: [RepositoryName: DeclaredRepository.Location] = [:]
    for repository in system.catalog.repositories {
      let local = (repository.mirrors ?? []).first { if case .local = $0 { true } else { false } }
      // One on this machine is read where it lies; any other is fetched first.
      guard let mirror = local ?? repository.mirrors?.first else { throw DrillError.noMirror(repository.name) }
      result[repository.name] = mirror
    }
    return result
  }

  private func plan(
    _ drill: Drill, _ point: DrillRecord.Point?, _ record: inout DrillRecord
  ) async throws -> Restore.Prepared {
    var request = Restore.Request()
    request.services = drill.level >= .system ? [] : Set(drill.services)
    request.point = point?.id
    request.verifies = false
    request.allowsBrokenLinks = drill.level <= .service
    let prepared = try await Restore(system, journal: journal).prepare(request)
    let fetch = try await expectedFetch(drill)
    for prediction in prepared.plan.predictions {
      var result = DrillRecord.ServiceResult(service: prediction.service, isBack: false)
      result.predictedSeconds = prediction.isComplete ? fetch.map { prediction.seconds + $0 } : nil
      result.rtoObjectiveSeconds = prediction.rtoSeconds
      record.results.append(result)
    }
    return prepared
  }

  /// How long bringing the copies here will take, by the newest drills of that name: their median. `nil` if that was never
  /// measured; nothing where all of them are here.
  private func expectedFetch(_ drill: Drill) async throws -> Double? {
    let locations = try locations(drill)
    let areHere = system.catalog.repositories.allSatisfy { repository in
      if case .local = locations[repository.name] ?? repository.location { true } else { false }
    }
    if areHere || drill.level == .tabletop { return 0 }
    let measured = try await DrillHistory(journal, system).list(drill.name).compactMap(\.times.fetch).suffix(5).sorted()
    return measured.isEmpty ? nil : measured[measured.count / 2]
  }

  /// A tabletop: what the plan says of itself.
  private func readPlan(_ prepared: Restore.Prepared, _ record: inout DrillRecord) {
    for note in prepared.plan.refusals {
      record.findings.append(DrillFinding(.plan, PlanError.refused([note]).report))
    }
    for prediction in prepared.plan.predictions where prediction.verdict == .missed {
      let why = "would be back after \(Duration.seconds(prediction.seconds).brief)"
      record.findings.append(DrillFinding(.objective, DrillError.objective(prediction.service, why).report))
    }
    // What was never measured is not known to be in time.
    let isTimed = prepared.plan.predictions.allSatisfy { $0.isComplete }
    record.times.restore = isTimed ? prepared.plan.criticalPath.seconds : nil
    record.verdict = DrillJudge.verdict(
      isComplete: isTimed && prepared.plan.isRunnable, findings: record.findings, control: nil)
  }

  // MARK: The drill's own process

  private func practise(
    _ request: Request, _ seed: UInt64, _ id: String, _ point: DrillRecord.Point?, _ plan: Restore.Prepared,
    _ progress: @escaping @Sendable (_ phase: String) -> Void
  ) async throws -> DrillResult {
    progress("make a place")
    let host = host
    let place = try await host.pool.run { () throws(SystemFailure) in try DrillPlace(id, host: host) }
    let result: Result<DrillResult, any Error>
    do {
      let job = try await job(request, seed, id, point, plan, in: place.directory)
      let fetch = DrillFetch(system: system, drill: job.drill, locations: job.locations)
      let file = "\(place.directory)/job.json"
      let end = ReadingEnd()
      result = .success(
        try await system.holdingRepositories(of: request.drill.stores, until: end) { [job] in
          var job = job
          let fetched = try await fetch.run(
            point: job.point, forwards: plan.input.forwards, into: place.directory, progress: progress)
          (job.locations, job.fetchedSeconds) = (fetched.locations, fetched.seconds)
          let bytes = try CanonicalJSON.encode(job)
          try await host.pool.run { () throws(SystemFailure) in try Files.replace(file, with: bytes) }
          progress("restore")
          return try await watched(request.drill, file: file, directory: place.directory)
        })
    } catch { result = .failure(error) }
    // Whatever came of it, nothing of the drill's is left.
    await host.pool.run {
      do throws(SystemFailure) { try place.remove() } catch {
        host.log("warning: \(place.directory) could not be removed: \(error.report.summary)")
      }
    }
    return try result.get()
  }

  /// The drill's process, as long as it may take and nothing more important happens.
  private func watched(_ drill: Drill, file: String, directory: String) async throws -> DrillResult {
    try await withThrowingTaskGroup(of: DrillResult?.self) { group in
      defer { group.cancelAll() }
      group.addTask { try await inside(file: file, directory: directory) }
      group.addTask {
        try await SystemTime().sleep(for: drill.deadline)
        throw DrillError.deadline(drill.deadline)
      }
      group.addTask {
        while true {
          try await SystemTime().sleep(for: .milliseconds(500))
          try await requireNoIncident()
        }
      }
      while let ended = try await group.next() { if let ended { return ended } }
      throw CancellationError()
    }
  }

  private func inside(file: String, directory: String) async throws -> DrillResult {
    let words = [
      "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc", "--propagation",
      "private",
      // The first process of the new world has to bury everybody else's children.
      "--", "/bin/sh", "-c", "\"$@\" & wait $!", "sh", program, "drill", "enter", file,
    ]
    let variables = ["PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"]
    let run = try await Subprocess.run(
      .name("unshare"), arguments: Arguments(words),
      environment: .custom(
        Dictionary(uniqueKeysWithValues: variables.map { (Environment.Key(stringLiteral: $0), $1) })),
      workingDirectory: "/", output: .string(limit: 1 << 20), error: .string(limit: 1 << 20))
    let result = "\(directory)/result.json"
    guard Files.exists(result) else {
      let said = run.standardError + run.standardOutput
      let last = said.split(separator: "\n").last.map(String.init) ?? "\(run.terminationStatus)"
      if last.hasPrefix("unshare: ") { throw DrillError.notIsolated(last) }
      throw DrillError.interrupted(last)
    }
    return try await host.pool.run {
      try CanonicalJSON.decode(DrillResult.self, from: Files.read(result, limitBytes: 256 << 20))
    }
  }

  private func job(
    _ request: Request, _ seed: UInt64, _ id: String, _ point: DrillRecord.Point?, _ plan: Restore.Prepared,
    in directory: String
  ) async throws -> DrillJob {
    let drill = request.drill
    let target = request.fault.flatMap { self.target(of: $0, drill, plan.point, seed: seed) }
    var small: (store: StoreName, bytes: Int64)?
    if request.fault?.kind == .fullDisk, let target {
      // A quarter of what comes back; enough for the directories themselves.
      small = (target, max(16 << 10, (plan.point.stores[target]?.capture.sizeBytes ?? 0) / 4))
    }
    let (catalog, host) = (system.catalog, host)
    let room = try await host.pool.run { [small] () throws(DrillError) in
      try DrillRoom(for: catalog, drill, in: directory, small: small)
    }
    var passwords: [RepositoryName: String] = [:]
    for repository in catalog.repositories {
      let secret = try await host.secrets.resolve(repository.password)
      let path = "\(directory)/password-\(repository.name)"
      try await host.pool.run { try Files.replace(path, with: secret.withBytes { Array($0) }) }
      passwords[repository.name] = path
    }
    var inner = drill
    // What is restored, of a system or a service: theirs, and what they need.
    if drill.level >= .service { inner.stores = plan.plan.stores }
    return DrillJob(
      id: id, drill: inner, room: room,
      catalogFiles: drill.level == .region
        ? [:]
        : Dictionary(
          uniqueKeysWithValues: system.loaded.travelling.map {
            ($0.key.description, String(decoding: $0.value, as: UTF8.self))
          }),
      point: point?.id, passwords: passwords, locations: try locations(drill), fault: request.fault, target: target,
      seed: seed, clockNanoseconds: host.time.now().nanoseconds - SystemTime().now().nanoseconds, host: host.name,
      variables: host.environment.filter {
        ["PATH", "HOME", "LANG", "LC_ALL"].contains($0.key) || needed.contains($0.key)
      })
  }

  /// Variables that the catalog's secrets are read from; no other goes in.
  private var needed: Set<String> {
    var names: Set<String> = []
    func add(_ reference: SecretReference) { if case .environment(let name) = reference { names.insert(name) } }
    for workflow in system.catalog.workflows { for reference in workflow.secrets.values { add(reference) } }
    for store in system.catalog.stores {
      for value in store.options.values {
        if let text = value.string, let reference = SecretReference(text) { add(reference) }
      }
    }
    return names
  }

  private func target(of fault: Drill.Fault, _ drill: Drill, _ point: RecoveryPoint, seed: UInt64) -> StoreName? {
    if fault.kind == .fullDisk, fault.store == nil {
      return drill.stores.max { size(of: $0, point) < size(of: $1, point) }
    }
    return drill.target(of: fault, seed: seed)
  }

  private func size(of store: StoreName, _ point: RecoveryPoint) -> Int64 {
    point.stores[store]?.capture.sizeBytes ?? 0
  }

  // MARK: After

  private func take(_ result: DrillResult, _ request: Request, _ seed: UInt64, _ record: inout DrillRecord) {
    record.findings = result.findings
    record.attempts = result.attempts
    record.times = result.times
    (record.checks, record.compared, record.notCompared) = (result.checks, result.compared, result.notCompared)
    record.workflows = result.workflows
    let predicted = Dictionary(
      record.results.map { ($0.service, $0.predictedSeconds) }, uniquingKeysWith: { first, _ in first })
    record.results = result.results.map { one in
      var one = one
      one.predictedSeconds = predicted[one.service] ?? nil
      return one
    }
    record.steps = result.measurements.sorted { $0.key < $1.key }.map { step, measurement in
      let parts = step.split(separator: "/", maxSplits: 1)
      let name = parts.count == 2 ? String(parts[1]) : ""
      let store = StoreName(name).flatMap { system.catalog.store($0) }
      let service = store?.service ?? ServiceName(name).flatMap { system.catalog.service($0)?.name }
      return DrillRecord.StepTime(
        step: step, service: service, store: store?.name, seconds: measurement.duration.seconds,
        bytes: measurement.bytes)
    }
    var outcome: DrillRecord.Control.Outcome?
    if let fault = request.fault {
      let target = request.fault.flatMap { $0.store ?? request.drill.target(of: $0, seed: seed) }
      let isAbout = [.flippedByte, .lostObject, .deniedPermission, .missingLog, .staleSchema].contains(fault.kind)
      let isolated = !result.findings.contains { $0.stage == .isolate }
      outcome =
        result.planted == nil || !isolated
        ? .notApplicable
        : DrillJudge.outcome(of: fault.kind, store: isAbout ? target : nil, findings: result.findings)
      record.control = DrillRecord.Control(
        fault: fault.kind, store: isAbout ? target : nil,
        service: isAbout ? target.flatMap { system.catalog.store($0)?.service } : nil,
        planted: result.planted ?? "nothing: there was nothing to break", outcome: outcome ?? .notApplicable)
    }
    record.verdict = DrillJudge.verdict(
      isComplete: result.isComplete, findings: result.findings, control: outcome)
  }
}
