import Catalog
import Core
import Planning
import Testing

@Suite("Planning a restore")
struct PlanTests {
  /// web → ledger → identity; ledger and web share an invariant.
  private let bank: Catalog

  init() throws {
    bank = try catalog(
      [
        ("identity", [], ["identity-db"]), ("ledger", ["identity"], ["ledger-db", "ledger-files"]),
        ("web", ["ledger"], ["web-db"]),
      ],
      more: invariant("web-knows-ledger", "web-db", "ledger-db") + invariant("files-match", "ledger-files", "ledger-db")
    )
  }

  @Test func `a whole system comes back in dependency order behind one gate`() {
    let plan = RestorePlan.make(PlanInput(catalog: bank, point: point(bank)))
    #expect(plan.isRunnable && plan.refusals == [] && plan.warnings == [])
    #expect(plan.stores == ["identity-db", "ledger-db", "ledger-files", "web-db"])
    #expect(plan.invariants == ["files-match", "web-knows-ledger"])
    let steps = Dictionary(uniqueKeysWithValues: plan.steps.map { ($0.id, $0) })
    #expect(steps.count == 37)
    #expect(steps["precheck"]?.dependsOn == [])
    #expect(steps["restore-beside/web-db"]?.dependsOn == ["precheck"])
    #expect(
      steps["commit"]?.dependsOn == [
        "validate-beside/identity-db", "validate-beside/ledger-db", "validate-beside/ledger-files",
        "validate-beside/web-db",
      ])
    #expect(steps["stop-service/web"]?.dependsOn == ["commit"])
    #expect(steps["stop-service/ledger"]?.dependsOn == ["stop-service/web"])
    #expect(steps["quiesce"]?.dependsOn == ["stop-service/identity"])
    #expect(steps["stop-store/ledger-db"]?.dependsOn == ["quiesce"])
    #expect(steps["swap/ledger-db"]?.dependsOn == ["stop-store/ledger-db"])
    #expect(steps["start-store/ledger-db"]?.dependsOn == ["swap/ledger-db"])
    #expect(
      steps["check-invariants"]?.dependsOn == [
        "start-store/identity-db", "start-store/ledger-db", "start-store/ledger-files", "start-store/web-db",
      ])
    #expect(steps["start-service/web"]?.dependsOn == ["check-invariants", "ready-service/ledger"])
    #expect(steps["validate-service/web"]?.dependsOn == ["ready-service/web"])
    #expect(
      steps["record"]?.dependsOn == ["validate-service/identity", "validate-service/ledger", "validate-service/web"])
    #expect(steps["record"]?.wave == plan.steps.map(\.wave).max())
  }

  @Test func `stores start after the stores they depend on, and stop before them`() throws {
    let text = """
      ---
      apiVersion: salvor.dev/v1
      kind: Service
      metadata: {name: both}
      spec: {stores: [{name: base, files: {path: /a}}, {name: upper, files: {path: /b}, dependsOn: [base]}]}
      """
    let catalog = try catalog([], more: text)
    let steps = Dictionary(
      uniqueKeysWithValues: RestorePlan.make(PlanInput(catalog: catalog, point: point(catalog))).steps.map {
        ($0.id, $0)
      })
    #expect(steps["stop-store/base"]?.dependsOn == ["quiesce", "stop-store/upper"])
    #expect(steps["start-store/upper"]?.dependsOn == ["start-store/base", "swap/upper"])
  }

  @Test func `what the point lacks or holds damaged refuses the plan, all of it at once`() {
    var facts = point(bank)
    facts.stores["ledger-db"] = nil
    facts.stores["web-db"] = StoreFacts(.corrupt("pack 12 fails its checksum"))
    let plan = RestorePlan.make(PlanInput(catalog: bank, services: [], point: facts))
    #expect(plan.refusals.map(\.code) == ["PLAN-102", "PLAN-103"])
    #expect(plan.refusals[1].message.contains("pack 12 fails its checksum"))
    #expect(plan.refusals.allSatisfy { $0.remedy != nil })
    #expect(plan.steps == [] && !plan.isRunnable)
    #expect(throws: PlanError.self) { try plan.checked() }
    let unknown = RestorePlan.make(PlanInput(catalog: bank, services: ["legder"], point: facts))
    #expect(unknown.refusals.map(\.code) == ["PLAN-101"])
  }

  @Test func `a partial restore that would break a link is refused by name, and allowed on demand`() {
    let input = PlanInput(catalog: bank, services: ["web"], point: point(bank))
    let refused = RestorePlan.make(input)
    #expect(refused.refusals.map(\.code) == ["PLAN-106"])
    #expect(
      refused.refusals[0].message.contains("'web-knows-ledger'") && refused.refusals[0].message.contains("'ledger-db'"))
    #expect(refused.refusals[0].remedy?.contains("'ledger'") == true)
    var allowing = input
    allowing.allowsBrokenLinks = true
    let allowed = RestorePlan.make(allowing)
    #expect(allowed.isRunnable && allowed.warnings.map(\.code).contains("PLAN-205") && allowed.invariants == [])
    let together = RestorePlan.make(PlanInput(catalog: bank, services: ["web", "ledger"], point: point(bank)))
    #expect(together.isRunnable)
    #expect(!together.steps.contains { $0.service == "identity" })
  }

  @Test func `one service alone disturbs who depends on it, and says so`() {
    let plan = RestorePlan.make(PlanInput(catalog: bank, services: ["identity"], point: point(bank)))
    #expect(plan.isRunnable && plan.disturbed == ["ledger"])
    #expect(plan.warnings.map(\.code) == ["PLAN-201"])
    #expect(Set(plan.steps.compactMap(\.service)) == ["identity"])
  }

  @Test func `a store outside the cut, a fuzzy and an unverified point are warned of`() {
    var facts = point(bank)
    facts.mode = .fuzzy
    facts.isVerified = false
    facts.stores["ledger-files"] = StoreFacts(.outside("no snapshot on ext4"))
    let plan = RestorePlan.make(PlanInput(catalog: bank, point: facts))
    #expect(plan.isRunnable && plan.warnings.map(\.code) == ["PLAN-202", "PLAN-203", "PLAN-204"])
  }

  @Test func `predictions are medians of what was measured, by size for copies`() throws {
    let one = try catalog([("a", [], ["a-db"])])
    var history = [10, 30, 20].map { Measurement(.restoreBeside, store: "a-db", bytes: 100, seconds: $0, at: noon) }
    history.append(Measurement(.swap, store: "a-db", seconds: 2, at: noon))
    history += [1, 5].map { Measurement(.startService, service: "a", seconds: $0, at: noon) }
    history += [.nan, -1].map { Measurement(.precheck, seconds: $0, at: noon) }
    let plan = RestorePlan.make(PlanInput(catalog: one, point: point(one, sizeBytes: 1000), history: history))
    let steps = Dictionary(uniqueKeysWithValues: plan.steps.map { ($0.id, $0) })
    #expect(steps["restore-beside/a-db"]?.predictedSeconds == 200)
    #expect(steps["restore-beside/a-db"]?.basis == "median of 3 runs, by size")
    #expect(steps["swap/a-db"]?.basis == "1 run")
    #expect(steps["start-service/a"]?.predictedSeconds == 3)
    #expect(steps["precheck"]?.predictedSeconds == nil && steps["precheck"]?.basis == "no history yet")
    #expect(plan.criticalPath.seconds == 205 && plan.criticalPath.unknownSteps == plan.criticalPath.steps.count - 3)
    #expect(plan.predictions.map(\.verdict) == [.missed], "205 s against 100 s, though steps are unknown")
    #expect(plan.warnings.map(\.code) == ["PLAN-207"])
  }

  @Test func `met only when every step was measured`() throws {
    let one = try catalog([("a", [], ["a-db"])])
    let history = RestoreAction.allCases.map { action -> Measurement in
      switch action {
      case .precheck, .commit, .quiesce, .checkInvariants, .record: Measurement(action, seconds: 1, at: noon)
      case .stopService, .startService, .readyService, .validateService:
        Measurement(action, service: "a", seconds: 1, at: noon)
      default: Measurement(action, store: "a-db", seconds: 1, at: noon)
      }
    }
    let known = RestorePlan.make(PlanInput(catalog: one, point: point(one), history: history))
    #expect(
      known.predictions == [
        ServicePrediction(service: "a", seconds: 13, isComplete: true, rtoSeconds: 100, verdict: .met)
      ])
    let unknown = RestorePlan.make(
      PlanInput(catalog: one, point: point(one), history: history.filter { $0.action != .swap }))
    #expect(unknown.predictions.map(\.verdict) == [.unknown])
  }

  @Test func `copies take turns within the limits, the most critical first`() throws {
    let three = try catalog([("a", [], ["a-db"]), ("b", [], ["b-db"]), ("c", [], ["c-db"])])
    let history = [("a-db", 10.0), ("b-db", 30), ("c-db", 20)].map {
      Measurement(.restoreBeside, store: StoreName($0), seconds: $1, at: noon)
    }
    func seconds(_ copies: Int, bandwidth: Int64? = nil) -> Double {
      let limits = PlanLimits(parallelCopies: copies, bandwidthBytesPerSecond: bandwidth)
      return RestorePlan.make(PlanInput(catalog: three, point: point(three), history: history, limits: limits))
        .predictions[0].seconds
    }
    #expect(seconds(3) == 30)
    #expect(seconds(2) == 30, "b alone beside c, then a")
    #expect(seconds(1) == 60)
    #expect(seconds(3, bandwidth: 10) == 300, "three thousand bytes at ten a second")
    let plan = RestorePlan.make(PlanInput(catalog: three, point: point(three), history: history))
    let copies = plan.steps.filter { $0.action == .restoreBeside }.sorted { $0.priority < $1.priority }
    #expect(copies.map(\.store) == ["b-db", "c-db", "a-db"])
  }

  @Test func `the table shows waves, the critical path, and the objective`() throws {
    let one = try catalog([("a", [], ["a-db"])])
    let history = [Measurement(.restoreBeside, store: "a-db", seconds: 90, at: noon)]
    let plan = RestorePlan.make(PlanInput(catalog: one, point: point(one), history: history))
    let table = plan.table()
    #expect(table[0] == "\(plan.id): 1 service, 1 store, back to 2027-01-15T08:00:00Z (point p1)")
    #expect(
      table[2...5] == [
        "wave     step                  predicted   basis",
        "0     *  precheck              ?           no history yet",
        "1     *  restore-beside/a-db   1 min 30 s  1 run",
        "2     *  validate-beside/a-db  ?           no history yet",
      ])
    #expect(table.contains("a        at least 1 min 30 s  1 min 40 s  unknown, no history yet"))
    #expect(table.contains("critical path (*): 1 min 30 s, 13 steps of it without history"))
    var facts = point(one)
    facts.stores = [:]
    let refused = RestorePlan.make(PlanInput(catalog: one, point: facts)).table()
    #expect(refused.contains("  PLAN-102  point p1 does not hold store 'a-db'"))
  }
}
