import Catalog
import Core
import Drills
import Testing

func manifest(_ spec: String) -> String {
  "apiVersion: salvor.dev/v1\nkind: Drill\nmetadata: {name: weekly}\nspec:\n" + spec
}

let drillDrivers: [DriverName: [OptionSchema]] = [
  "files": [OptionSchema("path", .path, required: true, help: "Where.")]
]

let drillSystem = """
  apiVersion: salvor.dev/v1
  kind: Repository
  metadata: {name: main}
  spec: {location: local:/srv/backup, password: file:/etc/salvor/password}
  ---
  apiVersion: salvor.dev/v1
  kind: Service
  metadata: {name: ledger}
  spec:
    objectives: {rpo: 15m, rto: 10m}
    stores: [{name: ledger-data, files: {path: /srv/ledger}}]
  ---
  apiVersion: salvor.dev/v1
  kind: Service
  metadata: {name: papers}
  spec:
    objectives: {rpo: 15m, rto: 10m}
    stores: [{name: papers-data, files: {path: /srv/papers}}]
  ---

  """

func drill(_ spec: String = "  level: system") throws -> Drill {
  let text = drillSystem + manifest(spec)
  let catalog = try Catalog.resolve([SourceFile(path: "a.yaml", text: text)], drivers: drillDrivers).get()
  return try #require(catalog.drill("weekly"))
}

func record(
  _ drill: Drill, at seconds: Int64, _ verdict: DrillRecord.Verdict = .passed, back: [ServiceName: Double] = [:]
) -> DrillRecord {
  let start = Timestamp(seconds: seconds)
  var record = DrillRecord(
    id: "drill-\(seconds)", drill: drill, catalogDigest: Digest.of("catalog"), host: "here", startedAt: start,
    verdict: verdict)
  record.finishedAt = start + .seconds(60)
  for (service, rto) in back {
    var result = DrillRecord.ServiceResult(service: service, isBack: true)
    result.rtoSeconds = rto
    record.results.append(result)
  }
  return record
}

@Suite("What a drill came to")
struct JudgeTests {
  private func finding(
    _ code: String, _ stores: [StoreName] = [], _ stage: DrillFinding.Stage = .read
  ) -> DrillFinding {
    DrillFinding(stage, Report(code, "as planted"), stores: stores)
  }

  @Test(arguments: Drill.FaultKind.allCases)
  func `a green drill under a planted fault has failed`(_ fault: Drill.FaultKind) {
    let outcome = DrillJudge.outcome(of: fault, store: "ledger-data", findings: [])
    #expect(outcome == .missed)
    #expect(DrillJudge.verdict(isComplete: true, findings: [], control: outcome) == .failed)
  }

  @Test(arguments: Drill.FaultKind.allCases)
  func `red for another fault's reason is not noticing`(_ fault: Drill.FaultKind) {
    for other in Drill.FaultKind.allCases
    where DrillJudge.codes(of: other).isDisjoint(with: DrillJudge.codes(of: fault)) {
      for code in DrillJudge.codes(of: other) {
        let outcome = DrillJudge.outcome(of: fault, store: nil, findings: [finding(code)])
        #expect(outcome == .otherReason, "\(code)")
        #expect(DrillJudge.verdict(isComplete: false, findings: [finding(code)], control: outcome) == .failed)
      }
    }
  }

  @Test(arguments: Drill.FaultKind.allCases)
  func `each fault is caught by its own codes, in the store it is in`(_ fault: Drill.FaultKind) {
    for code in DrillJudge.codes(of: fault) {
      #expect(DrillJudge.outcome(of: fault, store: nil, findings: [finding(code)]) == .caught)
      #expect(
        DrillJudge.outcome(of: fault, store: "ledger-data", findings: [finding(code, ["ledger-data"])]) == .caught)
      #expect(
        DrillJudge.outcome(of: fault, store: "ledger-data", findings: [finding(code, ["papers-data"])]) == .otherReason)
    }
  }

  @Test func `what could not be checked is never a pass`() {
    #expect(DrillJudge.verdict(isComplete: false, findings: [], control: nil) == .couldNotRun)
    let stage = finding("DRILL-101", [], .isolate)
    #expect(DrillJudge.verdict(isComplete: true, findings: [stage], control: nil) == .couldNotRun)
    #expect(DrillJudge.verdict(isComplete: true, findings: [], control: .notApplicable) == .couldNotRun)
    #expect(DrillJudge.verdict(isComplete: true, findings: [finding("RESTORE-203")], control: nil) == .failed)
    #expect(DrillJudge.verdict(isComplete: true, findings: [], control: nil) == .passed)
  }

  @Test func `the score counts what was planted, per service and fault, and nothing else`() throws {
    let weekly = try drill()
    func control(_ fault: Drill.FaultKind, _ service: ServiceName?, _ outcome: DrillRecord.Control.Outcome)
      -> DrillRecord
    {
      var one = record(weekly, at: 1000)
      one.control = .init(fault: fault, store: nil, service: service, planted: "something", outcome: outcome)
      return one
    }
    #expect(DrillScore([record(weekly, at: 1)]).share == nil, "nothing planted is no score")
    let score = DrillScore([
      record(weekly, at: 1), control(.flippedByte, "ledger", .caught), control(.flippedByte, "ledger", .missed),
      control(.lostObject, "papers", .otherReason), control(.revokedKey, nil, .caught),
      control(.missingLog, "papers", .notApplicable),
    ])
    #expect(score.planted == 4 && score.caught == 2 && score.share == 0.5)
    let line = try #require(score.lines.first { $0.service == "ledger" })
    #expect(line.planted == 2 && line.caught == 1 && line.missed == 1)
  }

  @Test func `an old pass decays to unproven, and a failure says so`() throws {
    let weekly = try drill("  level: system\n  proves: 10d")
    let pass = record(weekly, at: 0, back: ["ledger": 4])
    func proof(_ records: [DrillRecord], _ day: Int64) -> DrillProof {
      DrillProof(of: "ledger", records, now: Timestamp(seconds: day * 86_400))
    }
    #expect(proof([], 1).state == .unproven)
    #expect(proof([pass], 1).state == .proven && proof([pass], 1).measuredSeconds == 4)
    #expect(proof([pass], 10).state == .proven)
    #expect(proof([pass], 11).state == .unproven, "too long ago")
    let later = record(weekly, at: 86_400, .failed)
    #expect(proof([pass, later], 2).state == .failed)
    // What came to no verdict says nothing, neither for nor against.
    let unsure = record(weekly, at: 2 * 86_400, .couldNotRun)
    #expect(proof([pass, unsure], 3).state == .proven)
    var control = record(weekly, at: 3 * 86_400, .passed)
    control.control = .init(fault: .lostObject, store: nil, service: nil, planted: "a", outcome: .caught)
    #expect(proof([control], 4).state == .unproven, "noticing a fault brings nothing back")
    let tabletop = record(try drill("  level: tabletop"), at: 0)
    #expect(proof([tabletop], 1).state == .unproven, "a plan that was read proves nothing")
  }
}

@Suite("Which point, and when")
struct ChoiceTests {
  private let points = (0..<10).map { DrillCandidate(id: "p\($0)", time: Timestamp(seconds: Int64($0) * 3600)) }
  private let now = Timestamp(seconds: 10 * 3600)

  @Test func `latest, oldest, and a random one that can be chosen again`() {
    func choose(_ choice: Drill.Choice, _ seed: UInt64 = 1, window: Duration? = nil) -> String? {
      chooseDrillPoint(points.reversed(), choice, window: window, now: now, seed: seed)?.id
    }
    #expect(choose(.latest) == "p9")
    #expect(choose(.oldest) == "p0")
    #expect(Set((0..<200).compactMap { choose(.random, $0) }).count == 10, "each may be chosen")
    #expect(choose(.random, 5) == choose(.random, 5))
    let young = Set((0..<200).compactMap { choose(.random, $0, window: .seconds(3 * 3600)) })
    #expect(young == ["p7", "p8", "p9"])
    #expect(choose(.random, window: .seconds(60)) == nil, "none is so young")
  }

  @Test func `a drill is due after its period, later by its jitter, the same for everybody`() throws {
    let weekly = try drill("  schedule: every 7d\n  jitter: 6h")
    let began = Timestamp(seconds: 1_800_000_000)
    let due = DrillDue(weekly, began: began, since: began, now: began + .seconds(86_400))
    #expect(!due.isDue)
    let next = try #require(due.next)
    #expect(next >= began + .seconds(7 * 86_400) && next < began + .seconds(7 * 86_400 + 6 * 3600))
    #expect(DrillDue(weekly, began: began, since: began, now: next).isDue)
    #expect(DrillDue(weekly, began: began, since: began, now: next).next == next)
    #expect(DrillDue(try drill(), began: nil, since: began, now: next).next == nil, "only when somebody asks")
  }

  @Test(arguments: [
    ("30 2 * * *", "2026-11-21T02:30:00Z", "2026-11-22T02:30:00Z"),
    ("*/15 * * * *", "2026-11-21T08:09:20Z", "2026-11-21T08:15:00Z"),
    ("0 3 * * 1", "2026-11-21T08:00:00Z", "2026-11-23T03:00:00Z"),
    ("0 3 * * 7", "2026-11-21T08:00:00Z", "2026-11-22T03:00:00Z"),
    ("0 0 29 2 *", "2026-11-21T08:00:00Z", "2028-02-29T00:00:00Z"),
    ("0 0 1 1 1", "2026-11-21T08:00:00Z", "2027-01-01T00:00:00Z"),
    ("5,10 1-3 * 12 *", "2026-12-31T03:09:59Z", "2026-12-31T03:10:00Z"),
  ])
  func `cron's next moment`(_ text: String, _ after: String, _ next: String) throws {
    let schedule = try #require(BackupPolicy.Schedule(text))
    #expect(schedule.next(after: try #require(Timestamp(after))) == Timestamp(next))
  }

  @Test func `a day that never comes is none`() throws {
    #expect(try #require(BackupPolicy.Schedule("0 0 30 2 *")).next(after: Timestamp(seconds: 0)) == nil)
  }
}

@Suite("How drills go")
struct TrendTests {
  @Test func `slower than before is said, chance is not`() throws {
    let weekly = try drill()
    func trend(_ seconds: [Double]) -> DrillTrend {
      let records = seconds.enumerated().map { record(weekly, at: Int64($0) * 1000, back: ["ledger": $1]) }
      return DrillTrend(of: "ledger", records.reversed())
    }
    #expect(trend([10, 10, 11, 10, 10, 14]).isRegression)
    #expect(!trend([10, 10, 11, 10, 10, 12]).isRegression, "within a quarter")
    #expect(!trend([1, 1, 1, 1.6]).isRegression, "within a second")
    #expect(!trend([10]).isRegression)
  }

  @Test func `predictions count once five runs are known`() throws {
    let weekly = try drill()
    let records = (0..<8).map { number -> DrillRecord in
      var one = record(weekly, at: Int64(number) * 1000, back: ["ledger": 10])
      one.results[0].predictedSeconds = number < 5 ? 100 : 11
      return one
    }
    let score = PredictionScore(records)
    #expect(score.compared == 3)
    #expect(abs(try #require(score.medianError) - 0.1) < 1e-9)
    #expect(PredictionScore(records.prefix(5)).medianError == nil)
  }
}

@Suite("Drills in the catalog")
struct DrillDocumentTests {
  private func codes(_ spec: String) -> Set<String> {
    Set(
      Catalog.resolve([SourceFile(path: "a.yaml", text: drillSystem + manifest(spec))], drivers: drillDrivers)
        .diagnostics.map(\.code))
  }

  @Test func `what is left out is everything, now, by hand`() throws {
    let weekly = try drill("  {}")
    #expect(weekly.level == .system && weekly.point == .latest && weekly.schedule == nil)
    #expect(weekly.stores == ["ledger-data", "papers-data"] && weekly.services == ["ledger", "papers"])
    #expect(weekly.proves == .seconds(30 * 86_400) && weekly.faults.isEmpty)
  }

  @Test func `stores and services are looked up`() throws {
    #expect(try drill("  level: store\n  stores: [papers-data]").services == ["papers"])
    #expect(try drill("  level: service\n  services: [ledger]").stores == ["ledger-data"])
    #expect(codes("  level: store\n  stores: [nowhere]").contains("CATALOG-118"))
    #expect(codes("  level: system\n  services: [ledger]").contains("CATALOG-114"))
    #expect(codes("  level: system\n  stores: [ledger-data]").contains("CATALOG-114"))
    #expect(codes("  level: region").contains("CATALOG-108"), "there is no mirror")
    #expect(codes("  faults: [flipped-bite]").contains("CATALOG-113"))
    #expect(codes("  faults: [stale-schema]").contains("CATALOG-108"), "what makes it old is not said")
    #expect(codes("  level: store\n  stores: [ledger-data]\n  faults: [{kind: lost-object, store: papers-data}]") != [])
  }

  @Test func `a catalog without drills has the digest it always had, and one with them another`() throws {
    let files = [SourceFile(path: "a.yaml", text: drillSystem)]
    let bare = try Catalog.resolve(files, drivers: drillDrivers).get()
    #expect(!String(decoding: bare.canonicalBytes, as: UTF8.self).contains("drills"))
    let text = drillSystem + manifest("  faults: [{kind: stale-schema, run: \"true\"}, lost-object]\n  window: 3d")
    let with = try Catalog.resolve([SourceFile(path: "a.yaml", text: text)], drivers: drillDrivers).get()
    #expect(with.digest != bare.digest)
    #expect(try CanonicalJSON.encode(with) == with.canonicalBytes)
    #expect(try CanonicalJSON.decode(Catalog.self, from: with.canonicalBytes) == with)
  }
}

@Suite("A programme of drills")
struct ProgrammeTests {
  private func controlled(_ drill: Drill, _ fault: Drill.Fault, at seconds: Int64, _ verdict: DrillRecord.Verdict)
    -> DrillRecord
  {
    var one = record(drill, at: seconds, verdict)
    one.control = DrillRecord.Control(
      fault: fault.kind, store: fault.store, service: nil, planted: "something", outcome: .caught)
    return one
  }

  @Test func `that was interrupted goes on where it was`() throws {
    let drill = try drill(
      "  level: system\n  faults: [flipped-byte, lost-object, {kind: missing-log, store: ledger-data}]")
    let all: [Drill.Fault?] = [nil] + drill.faults.map { .some($0) }
    func left(_ records: [DrillRecord]) -> [Drill.Fault?] { DrillProgramme.remaining(drill, records) }
    #expect(left([]) == all, "never begun")
    let honest = record(drill, at: 1000)
    #expect(left([honest]) == drill.faults.map { .some($0) })
    let first = controlled(drill, drill.faults[0], at: 1100, .passed)
    #expect(left([first, honest]) == drill.faults[1...].map { .some($0) })
    // One that was stopped, or that nobody could carry out, is still to do; one that failed was carried out.
    let stopped = controlled(drill, drill.faults[1], at: 1200, .aborted)
    #expect(left([honest, first, stopped]) == drill.faults[1...].map { .some($0) })
    let failed = controlled(drill, drill.faults[1], at: 1300, .failed)
    #expect(left([honest, first, stopped, failed]) == [drill.faults[2]])
    let last = controlled(drill, drill.faults[2], at: 1400, .passed)
    #expect(left([honest, first, failed, last]).isEmpty, "nothing is left of it")
    // The next one begins anew.
    #expect(left([honest, first, failed, last, record(drill, at: 2000)]) == drill.faults.map { .some($0) })
    #expect(left([record(drill, at: 1000, .aborted)]) == all)
  }
}
