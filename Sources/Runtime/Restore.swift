import Catalog
import Core
import Governance
import IO
import Planning
import Recovery
import StateKit
import Telemetry
import Workflow

/// Brings services back: chooses the point, plans, runs, measures, and signs what happened.
package struct Restore: Sendable {
  package struct Request: Sendable {
    /// Empty means all.
    package var services: Set<ServiceName> = []
    package var point: String?
    package var at: Timestamp?
    package var allowsBrokenLinks = false
    /// Read every byte of the chosen point's copies before anything else.
    package var verifies = true
    /// When the loss happened; RPO is measured from there. `nil` is now.
    package var failedAt: Timestamp?
    /// Goes on from the point along the log; for services with one store between them.
    package var forward: ForwardTarget?
    /// How many stores may be copied at the same time; `nil` for what is usual.
    package var copies: Int?

    package init() {}
  }

  /// A plan, and why it is about this point.
  package struct Prepared: Sendable {
    package var plan: RestorePlan
    package var point: RecoveryPoint
    package var rejected: [RejectedPoint]
    package var input: RestoreInput
  }

  let system: ManagedSystem
  let journal: any RunJournal

  package init(_ system: ManagedSystem, journal: any RunJournal) { (self.system, self.journal) = (system, journal) }

  // MARK: Planning

  /// Chooses and plans; touches nothing.
  package func prepare(
    _ request: Request, progress: @escaping @Sendable (_ phase: String) -> Void = { _ in }
  ) async throws(AnyFailure) -> Prepared {
    do {
      let catalog = system.catalog
      for name in request.services where catalog.service(name) == nil { throw RecoveryError.noSuchService(name) }
      let services = request.services.isEmpty ? Set(catalog.services.map(\.name)) : request.services
      let stores = catalog.services.filter { services.contains($0.name) }.flatMap(\.stores).sorted()
      let (chosen, forward) = try await choose(stores, request, progress)
      let plan = RestorePlan.make(
        PlanInput(
          catalog: catalog, services: request.services, point: chosen.facts, history: try await history(),
          limits: PlanLimits(parallelCopies: request.copies ?? PlanLimits().parallelCopies),
          allowsBrokenLinks: request.allowsBrokenLinks))
      var files: [String: String] = [:]
      for (path, bytes) in system.loaded.travelling { files[path.description] = String(decoding: bytes, as: UTF8.self) }
      let repository =
        catalog.store(stores.first ?? StoreName(unchecked: ""))?.repository ?? catalog.repositories[0].name
      let now = system.host.time.now()
      var input = RestoreInput(
        plan: plan, point: chosen.point, repository: repository, catalogFiles: files, rejected: chosen.rejected,
        failedAt: request.failedAt, requestedAt: now)
      input.copies = request.copies
      input.forward = forward
      input.along = chosen.forwards.isEmpty ? nil : chosen.forwards
      let facts = PointFactsAsked(system, stores: stores)
      try facts.requireAccepted(
        chosen.point, by: services.sorted(), goingOn: Set(input.forwards.map(\.store)))
      input.metrics = try await facts.context(of: chosen.point)
      return Prepared(plan: plan, point: chosen.point, rejected: chosen.rejected, input: input)
    } catch {
      throw AnyFailure(error)
    }
  }

  /// What can be promised of a restore of everything from the newest points: the plan at the 95th percentile of measured
  /// steps, and what it was made from.
  func promised() async throws -> (RestorePlan, PlanInput) {
    let chosen = try await PointSelection(system: system).choose(
      stores: system.catalog.stores.map(\.name), named: nil, at: nil, verifies: false, progress: { _ in })
    var input = PlanInput(catalog: system.catalog, point: chosen.facts, history: try await history())
    input.quantile = 0.95
    return (RestorePlan.make(input), input)
  }

  private func choose(
    _ stores: [StoreName], _ request: Request, _ progress: @escaping @Sendable (_ phase: String) -> Void
  ) async throws -> (PointSelection.Chosen, LogForward?) {
    let selection = PointSelection(system: system)
    guard let target = request.forward else {
      return (
        try await selection.choose(
          stores: stores, named: request.point, at: request.at, verifies: request.verifies, progress: progress), nil
      )
    }
    guard stores.count == 1, let store = stores.first else {
      if case .time(let time) = target, request.point == nil {
        return (try await aligned(stores, time, request, selection, progress), nil)
      }
      // Several would come back to several moments, of which none is promised to fit the others.
      throw RecoveryError.refused([
        "going forward along a log to anything but a time is for one store, and \(stores.count) are to be restored"
      ])
    }
    var damaged: [RejectedPoint] = []
    for forward in try await Logs(system).forwards(store, to: target) {
      if let named = request.point, !forward.point.text.hasPrefix(named) { continue }
      do {
        var chosen = try await selection.choose(
          stores: stores, named: forward.point.text, at: nil, verifies: request.verifies, progress: progress)
        chosen.rejected = damaged
        return (chosen, forward)
      } catch {
        guard error.report.code == "POINT-204" else { throw error }
        damaged.append(RejectedPoint(id: forward.point.text, why: error.report.summary))
      }
    }
    throw RecoveryError.noPoint(why: damaged.map { "\($0.id): \($0.why)" })
  }

  /// Every store brought forward to one time, each by its own server's clock.
  private func aligned(
    _ stores: [StoreName], _ time: Timestamp, _ request: Request, _ selection: PointSelection,
    _ progress: @escaping @Sendable (_ phase: String) -> Void
  ) async throws -> PointSelection.Chosen {
    var result: PointSelection.Chosen?
    for store in stores {
      var damaged: [RejectedPoint] = []
      var one: PointSelection.Chosen?
      for forward in try await Logs(system).forwards(store, to: .time(time)) {
        do {
          var chosen = try await selection.choose(
            stores: [store], named: forward.point.text, at: nil, verifies: request.verifies, progress: progress)
          chosen.forwards = [forward]
          one = chosen
          break
        } catch {
          guard error.report.code == "POINT-204" else { throw error }
          damaged.append(RejectedPoint(id: forward.point.text, why: error.report.summary))
        }
      }
      guard var one else { throw RecoveryError.noPoint(why: damaged.map { "\($0.id): \($0.why)" }) }
      one.rejected = damaged
      one.point.stores = one.point.stores.filter { $0.key == store }
      one.point.stores[store]?.cut = .held
      one.facts.stores[store]?.state = .held
      result = result.map { $0.joined(one) } ?? one
    }
    guard var result else { throw RecoveryError.noPoint(why: ["nothing is to be restored"]) }
    result.point.time = time
    result.point.mode = .timeAligned
    result.point.remarks = [
      "every store by its own server's clock, as far as those agree: what was caused by something may be there without it"
    ]
    (result.facts.time, result.facts.mode) = (time, .timeAligned)
    return result
  }

  /// What earlier restores took, step by step.
  private func history() async throws(JournalError) -> [Planning.Measurement] {
    try await journal.history(HistoryFilter(limit: 5000)).compactMap { entry in
      guard let action = RestoreAction(kind: entry.kind) else { return nil }
      return Planning.Measurement(
        action, store: entry.store, service: entry.service, bytes: entry.measurement.bytes,
        seconds: entry.measurement.duration.seconds, at: entry.measurement.startedAt)
    }
  }

  // MARK: Running

  /// Carries a plan out.
  ///
  /// - Throws: ``PlanError`` if the plan refuses; ``RunsError/unfinished(_:stores:)`` if another restore is about the same
  ///   stores; ``RunError`` if it was interrupted and can be resumed.
  package func run(_ prepared: Prepared, observer: @escaping RunObserver) async throws(AnyFailure) -> RestoreOutcome {
    do {
      guard prepared.plan.isRunnable else { throw PlanError.refused(prepared.plan.refusals) }
      var prepared = prepared
      if prepared.input.metrics != nil {
        prepared.input.metrics?.before =
          await PointFactsAsked(system, stores: prepared.plan.stores).ask()?.metrics ?? [:]
      }
      let spec = try prepared.plan.run(prepared.input, at: prepared.input.requestedAt)
      let end = ReadingEnd()
      let engine = engine(for: prepared.input, observer: telling(end, observer, prepared.input))
      let stores = prepared.plan.stores
      let record = try await system.holdingRepositories(of: stores, until: end) {
        try await engine.start(spec)
      }
      return try await finish(record, prepared.input)
    } catch {
      throw AnyFailure(RunsError.of(error))
    }
  }

  /// Behind the commit gate every copy stands beside, and a rollback only moves what does: nothing is read from a
  /// repository any more.
  func telling(_ end: ReadingEnd, _ observer: @escaping RunObserver, _ input: RestoreInput) -> RunObserver {
    let gate = input.plan.commitGate
    return { event in
      switch event {
      case .stepFinished(_, let step, .succeeded) where step == gate: end.come()
      case .runChanged(_, .rollingBack, _): end.come()
      default: break
      }
      observer(event)
    }
  }

  func engine(for input: RestoreInput, observer: @escaping RunObserver) -> RunEngine {
    let environment = LiveRestore(
      system: system, point: input.point, forwards: input.forwards, invariantNames: Set(input.plan.invariants),
      services: input.plan.services, metrics: input.metrics)
    let host = system.host
    var options = RunEngine.Options(holder: Holder.thisProcess)
    options.limits = ["copy": input.copies ?? PlanLimits().parallelCopies]
    // Whatever is no copy mostly waits: for a server to answer, for a service to be ready.
    options.parallelism = 32
    let precheck = input.plan.steps.first { $0.action == .precheck }.flatMap { StepID($0.id) } ?? "precheck"
    return RunEngine(
      journal: journal, handlers: restoreSteps(environment, precheck: precheck), time: host.time,
      randomness: host.randomness, options: options, observer: observer)
  }

  /// Measures a settled run against its objectives, and writes its evidence.
  func finish(_ record: RunRecord, _ input: RestoreInput) async throws(AnyFailure) -> RestoreOutcome {
    let measured = measure(record, input)
    let evidence = try await EvidenceArchive(host: system.host).record(
      record, input, measured, in: system, journal: journal)
    await EvidenceLog(host: system.host, journal: journal).publishOrWarn()
    return RestoreOutcome(
      run: record.spec.id, state: record.state, failure: record.head.failure, point: input.point.id,
      pointTime: input.targetTime, mode: input.point.mode, services: measured, rejected: input.rejected,
      comparisons: record.comparisons, checks: record.checks, gatesRetried: record.gatesRetried, evidence: evidence)
  }

  private func measure(_ record: RunRecord, _ input: RestoreInput) -> [ServiceMeasurement] {
    let start = record.steps.values.compactMap { $0.measurement?.startedAt }.min() ?? record.head.createdAt
    let lostAt = input.failedAt ?? input.requestedAt
    return input.plan.services.compactMap { name in
      guard let service = system.catalog.service(name) else { return nil }
      let steps = record.spec.steps.filter { $0.service == name && $0.store == nil }
      let ends = steps.compactMap { record.steps[$0.id]?.measurement?.finishedAt }
      // What was started and never asked whether it works: nobody can say that it does.
      let isAsked = service.start == nil || !service.ready.isEmpty || !service.validators.isEmpty
      let isBack = record.state == .succeeded && ends.count == steps.count && isAsked
      let phases = record.spec.steps.filter { step in
        step.service == name || step.store.map { service.stores.contains($0) } ?? false
      }.compactMap { step -> PhaseMeasurement? in
        guard let measurement = record.steps[step.id]?.measurement else { return nil }
        return PhaseMeasurement(step: step.id, seconds: measurement.duration.seconds, bytes: measurement.bytes)
      }
      return ServiceMeasurement(
        service: name, rpoSeconds: service.stores.isEmpty ? nil : max(0, (lostAt - input.targetTime).seconds),
        rpoObjectiveSeconds: service.objectives.rpo?.seconds,
        rtoSeconds: isBack ? ends.max().map { max(0, ($0 - start).seconds) } : nil,
        rtoObjectiveSeconds: service.objectives.rto?.seconds, phases: phases)
    }
  }
}

extension Holder {
  /// As the journal reads it: the claim of a process that is known to be gone keeps nobody waiting.
  static var thisProcess: Holder { Holder(ProcessIdentity.current.description) }
}

/// What a restore came to.
package struct RestoreOutcome: Sendable, Codable {
  package var run: RunID
  package var state: RunState
  package var failure: Report?
  package var point: PointID
  package var pointTime: Timestamp
  package var mode: RecoveryPoint.Mode
  package var services: [ServiceMeasurement]
  package var rejected: [RejectedPoint]
  /// Of every store whose copy was brought back beside, whether it was compared with what was recorded at the mark.
  package var comparisons: [StoreComparison]
  /// Those of steps that failed too.
  package var checks: [CheckOutcome]
  /// Gates that said no at first, and at which try they opened.
  package var gatesRetried: [String]
  /// The file with the signed record.
  package var evidence: String

  package var missesObjective: Bool { services.contains { $0.rpoVerdict == .missed || $0.rtoVerdict == .missed } }
}

/// What a store's content was compared with before it was put in place.
package struct StoreComparison: Sendable, Codable, Equatable {
  package var store: StoreName
  /// `false`: nothing was recorded at the mark to compare with. The engine's own checks passed, and the checks of services
  /// and invariants stand for themselves; nobody can say that every row is as it was.
  package var isCompared: Bool
  /// The digest's; `nil` if there is none.
  package var scheme: String?
  /// Tables, databases or files, and what is counted in them; all equal.
  package var parts: Int
  package var rows: Int64
}

/// Objective and measure of one service.
package struct ServiceMeasurement: Sendable, Codable, Equatable {
  package enum Verdict: String, Sendable, Codable { case met, missed, unknown, none }

  package var service: ServiceName
  /// `nil` for a service without stores of its own.
  package var rpoSeconds: Double?
  package var rpoObjectiveSeconds: Double?
  /// From the run's start until the service's validators had passed; `nil` if they never did.
  package var rtoSeconds: Double?
  package var rtoObjectiveSeconds: Double?
  package var phases: [PhaseMeasurement]

  package var rpoVerdict: Verdict { verdict(rpoSeconds, rpoObjectiveSeconds) }
  package var rtoVerdict: Verdict { verdict(rtoSeconds, rtoObjectiveSeconds) }

  private func verdict(_ measured: Double?, _ objective: Double?) -> Verdict {
    guard let objective else { return .none }
    guard let measured else { return .unknown }
    return measured <= objective ? .met : .missed
  }
}

package struct PhaseMeasurement: Sendable, Codable, Equatable {
  package var step: StepID
  package var seconds: Double
  package var bytes: Int64?
}

extension RunRecord {
  /// Every check that any step made, whether the step succeeded or failed by it.
  package var checks: [CheckOutcome] {
    spec.steps.flatMap { step -> [CheckOutcome] in
      if let output = output(of: step.id) {
        return (try? output.decoded(as: ValidateService.Output.self).checks) ?? []
      }
      return (try? steps[step.id]?.failure?.details?.decoded(as: [CheckOutcome].self)) ?? []
    }
  }

  package var comparisons: [StoreComparison] {
    spec.steps.filter { $0.kind == CompareBeside.kind }.compactMap { step -> StoreComparison? in
      guard let store = step.store,
        let output = try? self.output(of: step.id)?.decoded(as: CompareBeside.Output.self)
      else { return nil }
      return StoreComparison(
        store: store, isCompared: output.isCompared, scheme: output.scheme, parts: output.parts, rows: output.rows)
    }
  }

  package var gatesRetried: [String] {
    spec.steps.filter { $0.kind == AwaitReady.kind }.flatMap { step -> [String] in
      guard let output = try? self.output(of: step.id)?.decoded(as: AwaitReady.Output.self) else { return [] }
      return output.evidence.filter { $0.attempt > 1 }.map { gate in
        "\(step.service?.text ?? step.id.text): \(gate.check) opened at try \(gate.attempt)"
      }
    }
  }
}
