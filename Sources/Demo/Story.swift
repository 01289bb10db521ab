import Catalog
import Console
import Core
import Governance
import IO
import Planning
import Recovery
import Runtime
import StateKit
import Vault
import Workflow

/// The demo: a small bank under live load is captured, destroyed, and brought back to one consistent moment.
///
/// Nothing in it is prepared: the same modules as the commands', on real processes and files, and the story fails if
/// any of its claims doesn't hold.
package struct Story: Sendable {
  package struct Options: Sendable {
    package var engines = false
    package var bank: String
    /// Where the bank lives; a fresh temporary directory unless given.
    package var directory: String?
    /// Keep the directory and leave the bank running.
    package var keeps = false
    package var rate: Double = 60
    package var points = 3
    package var interval: Duration = .seconds(3)
    package var seed: UInt64 = 1
    package var basePort = 17_100

    package init(bank: String) { self.bank = bank }
  }

  /// Everything that was seen, for `--json`.
  package struct Outcome: Sendable, Codable {
    package var engines: Bool
    package var points: [RecoveryPoint]
    package var load: JSONValue
    package var damagedStore: StoreName
    package var naiveBroken: Int64
    package var naiveChecks: [CheckOutcome]
    package var naiveHealthy: Int
    package var restore: RestoreOutcome
    package var broken: Int64
    package var evidenceVerified: Bool
    package var tampering: String
    package var transfersAfter: Int
    package var secondsInAll: Double
  }

  private let options: Options
  private let host: Machine
  private let style: Style
  private let print: @Sendable (String) -> Void

  package init(_ options: Options, host: Machine, style: Style, print: @escaping @Sendable (String) -> Void) {
    (self.options, self.host, self.style, self.print) = (options, host, style, print)
  }

  /// Tells the story, and cleans up after itself whatever happens.
  package func run() async throws -> Outcome {
    guard Files.exists(options.bank) else { throw DemoError.noProgram(options.bank) }
    let root = options.directory ?? "/tmp/salvor-demo-\(ProcessID.current)"
    try Files.createDirectory(root, mode: 0o755)
    let bank = Bank(
      program: options.bank, directory: root + "/bank", engines: options.engines, basePort: options.basePort)
    var ownHost = host
    ownHost.stateDirectory = root + "/state"
    let result: Result<Outcome, any Error>
    do {
      result = .success(try await tell(bank, root: root, host: ownHost))
    } catch {
      result = .failure(error)
    }
    if options.keeps {
      say("kept in \(root)")
    } else {
      _ = try? await bank.killEverything(time: host.time)
      try Files.removeTree(root)
      say("cleaned up: no process and no file is left")
    }
    return try result.get()
  }

  private func tell(_ bank: Bank, root: String, host: Machine) async throws -> Outcome {
    let start = host.time.monotonicNanoseconds()

    title(
      options.engines
        ? "A bank of seven services, on SQLite, PostgreSQL, MariaDB, Redis, NATS and files"
        : "A bank of five services, on SQLite and files"
    )
    try Files.createDirectory(bank.directory)
    try await bank.create()
    try Files.createDirectory(root + "/catalog")
    try Files.replace(root + "/catalog/bank.yaml", with: Array(try await bank.catalog().utf8), mode: 0o600)
    let loaded = try await CatalogFiles.load(root + "/catalog", pool: host.pool)
    let system = try ManagedSystem(loaded, host: host)
    guard let declared = loaded.catalog.repositories.first, case .local(let repository) = declared.location,
      case .file(let passwordFile) = declared.password
    else { throw DemoError.story("the bank's catalog names no local repository") }
    try Files.replace(passwordFile, with: Array(Hex.encode(host.randomness.bytes(24)).utf8), mode: 0o600)
    _ = try await system.vaults.create(declared)
    for line in CatalogGraph(loaded.catalog).render(.tree).split(separator: "\n") { print("  " + line) }
    let ready = try await system.startAll()
    say("\(ready.count) services are ready: \(ready.map(\.text).joined(separator: ", "))")

    title("Recovery points, under live transfers")
    let backup = Backup(system, journal: try await Registry.journal(host))
    guard let target = try backup.targets().first(where: { $0.group == "bank" }) else {
      throw DemoError.story("the bank's catalog has no group 'bank'")
    }
    let ((points, failedAt), load) = try await bank.underLoad(
      rate: options.rate, seed: options.seed, record: root + "/acknowledged.txt"
    ) {
      var points: [RecoveryPoint] = []
      for _ in 0..<options.points {
        try await host.time.sleep(for: options.interval)
        let point = try await backup.take(target)
        guard point.mode == .barrier else { throw DemoError.story("a point is \(point.mode): \(point.remarks)") }
        points.append(point)
        show(point)
      }
      try await host.time.sleep(for: .seconds(1))
      title("Disaster")
      let killed = try await bank.killEverything(sparing: "load", time: host.time)
      let failedAt = host.time.now()
      try bank.loseEveryDisk()
      say("killed \(killed) processes, and every disk is gone")
      return (points, failedAt)
    }
    say("\(load["acknowledged"]?.integer ?? 0) transfers had been acknowledged")
    guard let newest = points.last else { throw DemoError.story("no point was taken") }
    let vault = try await system.vault(of: declared.name)
    let ledger: StoreName = "ledger-data"
    let damage = try await Sabotage.flipByte(
      in: ledger, of: newest, sparing: points.dropLast(), vault: vault, directory: repository)
    say("and one bit rots in the newest copy of the ledger: pack \(damage.pack.prefix(8)), byte \(damage.offset)")

    title("The naive way: the newest copy of each store that can be read")
    let naive = try await NaiveRestore(system: system, points: points, vault: vault).run { say($0) }
    let naiveBroken = naive.checks.reduce(0) { $0 + $1.violations }
    say("every health check is \(style.paint("green", .good)): \(naive.healthy.map(\.text).joined(separator: ", "))")
    for check in naive.checks { show(check) }
    guard naiveBroken > 0 else { throw DemoError.story("the naive restore broke nothing, so this run shows nothing") }
    say(style.paint("\(naiveBroken) records point nowhere, and nobody would have noticed", .bad))
    _ = try await bank.killEverything(time: host.time)
    try bank.loseEveryDisk()

    title("Salvor")
    let restore = Restore(system, journal: try await Registry.journal(host))
    var request = Restore.Request()
    request.failedAt = failedAt
    let prepared = try await restore.prepare(request)
    for rejected in prepared.rejected { say("\(style.paint("refused", .bad)) \(rejected.id): \(rejected.why)") }
    guard !prepared.rejected.isEmpty, prepared.point.id != newest.id else {
      throw DemoError.story("the damaged point was not refused")
    }
    say("\(style.paint("chosen", .good)) \(prepared.point.id): \(prepared.point.mode.rawValue), every byte verified")
    for line in waves(prepared.plan) { print("  " + line) }
    let outcome = try await restore.run(prepared, observer: watch)
    guard outcome.state == .succeeded else {
      throw DemoError.story("the restore ended as \(outcome.state.rawValue): \(outcome.failure?.description ?? "")")
    }
    for gate in outcome.gatesRetried { say("\(style.paint("retried", .warning)) \(gate)") }
    guard !outcome.gatesRetried.isEmpty else { throw DemoError.story("no gate had to be retried") }
    for check in outcome.checks { show(check) }
    let broken = outcome.checks.reduce(0) { $0 + $1.violations }
    guard broken == 0 else { throw DemoError.story("\(broken) invariants are broken after the restore") }
    say(style.paint("0 broken, 0 orphans", .good))

    title("Objective and measured")
    for line in objectives(outcome.services) { print("  " + line) }

    title("Proof")
    let (verified, tampering) = try await prove(outcome.evidence, host: host)
    let after = try await bank.transfers(25, seed: options.seed + 1, record: root + "/after.txt")
    say("and the bank takes transfers again: \(after) of 25")
    guard after > 0 else { throw DemoError.story("the restored bank takes no transfers") }
    try await system.stopAll()
    let seconds = Duration.nanoseconds(host.time.monotonicNanoseconds() - start).seconds
    say("the whole story took \(Duration.seconds(seconds).brief)")
    return Outcome(
      engines: options.engines, points: points, load: load, damagedStore: ledger, naiveBroken: naiveBroken,
      naiveChecks: naive.checks, naiveHealthy: naive.healthy.count, restore: outcome, broken: broken,
      evidenceVerified: verified, tampering: tampering, transfersAfter: after, secondsInAll: seconds)
  }

  /// The evidence verifies; with one byte changed it doesn't, and says which record it is.
  private func prove(_ path: String, host: Machine) async throws -> (Bool, String) {
    let archive = EvidenceArchive(host: host)
    let bytes = try Files.read(path)
    let document = try EvidenceVerifier.verify(bytes, publicKey: try await archive.publicKey())
    say("\(style.paint("verified", .good)) \(Files.last(of: path)): \(document.records.count) records, signed")
    var changed = bytes
    // The middle of the file lies in some record's body.
    guard let index = changed.indices.dropFirst(changed.count / 2).first(where: { (48...56).contains(changed[$0]) })
    else {
      throw DemoError.story("the evidence has no digit to change")
    }
    changed[index] += 1
    do {
      _ = try EvidenceVerifier.verify(changed, publicKey: try await archive.publicKey())
    } catch {
      let why = AnyFailure(error).report.summary
      say("with one byte changed: \(style.paint(why, .bad))")
      return (true, why)
    }
    throw DemoError.story("changed evidence was accepted")
  }

  // MARK: Telling

  private func title(_ text: String) { print("\n" + style.paint("== \(text)", .title)) }

  private func say(_ text: String) { print("  " + text) }

  private func show(_ point: RecoveryPoint) {
    let stores = point.stores.sorted { $0.key < $1.key }.map { name, store in
      "\(name) \(style.paint(store.capture.position.value.prefix(24).description, .faint))"
    }
    say(
      "\(point.id)  \(style.paint(point.mode.rawValue, .good))  writers waited \(style.paint(point.pause.brief, .strong))  "
        + stores.joined(separator: ", "))
    for remark in point.remarks { say(style.paint("note: \(remark)", .warning)) }
  }

  private func show(_ check: CheckOutcome) {
    let tone: Style.Tone = check.verdict == .passed ? .good : .bad
    say("\(style.paint(check.verdict.rawValue, tone)) \(check.name): \(check.summary)")
  }

  private func waves(_ plan: RestorePlan) -> [String] {
    Dictionary(grouping: plan.steps, by: \.wave).sorted { $0.key < $1.key }.map { wave, steps in
      "wave \(wave): " + steps.map(\.id).joined(separator: ", ")
    }
  }

  private func objectives(_ services: [ServiceMeasurement]) -> [String] {
    var table = Table([
      .init("service"), .init("RPO asked", .right), .init("measured", .right), .init("RTO asked", .right),
      .init("measured", .right),
    ])
    func text(_ seconds: Double?) -> String { seconds.map { Duration.seconds($0).brief } ?? "-" }
    for service in services {
      table.add(
        service.service.text, text(service.rpoObjectiveSeconds), text(service.rpoSeconds),
        text(service.rtoObjectiveSeconds), text(service.rtoSeconds))
    }
    return table.lines(style)
  }

  private var watch: RunObserver {
    { event in
      switch event {
      case .stepFinished(_, let step, .succeeded(_, let measured)):
        say("\(style.paint("done", .good))   \(step)  \(style.paint(measured.duration.brief, .faint))")
      case .stepFinished(_, let step, .failed(let report)): say("\(style.paint("failed", .bad)) \(step): \(report)")
      case .stepRetrying(_, let step, let report, _):
        say("\(style.paint("retry", .warning))  \(step): \(report.summary)")
      case .stepLog(_, _, let line): say("\(style.paint("gate", .warning))   \(line)")
      default: break
      }
    }
  }
}
