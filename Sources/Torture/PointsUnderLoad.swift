import Catalog
import Core
import Demo
import DriverKit
import IO
import Recovery
import Runtime

/// Takes recovery points of a bank at full load, then restores every one of them and counts what is broken.
package struct PointsUnderLoad: Sendable {
  package struct Options: Sendable {
    package var bank: String
    package var directory: String
    package var seed: UInt64 = 1
    package var runs = 100
    /// `false` is the negative control: points without holding, which must be found broken.
    package var holds = true
    package var basePort = 17_200
    /// How long the load runs by itself first, to compare with; zero for not at all.
    package var calm: Duration = .seconds(5)

    package init(bank: String, directory: String) { (self.bank, self.directory) = (bank, directory) }
  }

  /// What one restored point came to.
  package struct Point: Sendable, Codable {
    package var id: PointID
    package var mode: RecoveryPoint.Mode
    package var hasStoresOutside: Bool
    package var pauseNanoseconds: Int64
    /// Stores whose restored content was compared with the digest taken at the mark.
    package var compared: [StoreName]
    package var checks: [CheckOutcome]

    package var violations: Int64 { checks.reduce(0) { $0 + $1.violations } }
    /// A check that could not be made never counts as passed.
    package var isBroken: Bool { checks.isEmpty || checks.contains { $0.verdict != .passed } }
  }

  package struct Outcome: Sendable, Codable {
    package var seed: UInt64
    package var points: [Point]
    /// The load's summary without points being taken, and with.
    package var calm: JSONValue?
    package var load: JSONValue

    package var broken: Int { points.count { $0.isBroken } }
    /// Points that are not what was asked for: one moment of every store, each of them held.
    package var lesser: Int { points.count { $0.mode != .barrier || $0.hasStoresOutside } }

    /// The pause that `share` of the points stayed within, in nanoseconds.
    package func pause(_ share: Double) -> Int64 {
      let pauses = points.map(\.pauseNanoseconds).sorted()
      guard !pauses.isEmpty else { return 0 }
      return pauses[min(pauses.count - 1, Int((Double(pauses.count) * share).rounded(.down)))]
    }
  }

  private let options: Options
  private let host: Machine

  package init(_ options: Options, host: Machine) { (self.options, self.host) = (options, host) }

  /// Leaves no process and no file behind, whatever happens.
  package func run(say: @escaping @Sendable (String) -> Void) async throws -> Outcome {
    let bank = Bank(
      program: options.bank, directory: options.directory + "/bank", engines: true, basePort: options.basePort)
    var own = host
    own.stateDirectory = options.directory + "/state"
    let result: Result<Outcome, any Error>
    do { result = .success(try await carryOut(bank, own, say)) } catch { result = .failure(error) }
    let cleaning: Result<Void, any Error>
    do {
      _ = try await bank.killEverything(time: host.time)
      try Files.removeTree(options.directory)
      cleaning = .success(())
    } catch { cleaning = .failure(error) }
    // What went wrong first matters more.
    let outcome = try result.get()
    try cleaning.get()
    return outcome
  }

  private func carryOut(_ bank: Bank, _ host: Machine, _ say: @Sendable (String) -> Void) async throws -> Outcome {
    let root = options.directory
    for path in [root, bank.directory, root + "/catalog"] { try Files.createDirectory(path, mode: 0o755) }
    try await bank.create()
    try Files.replace(root + "/catalog/bank.yaml", with: Array(try await bank.catalog().utf8), mode: 0o600)
    let loaded = try await CatalogFiles.load(root + "/catalog", pool: host.pool)
    let system = try ManagedSystem(loaded, host: host)
    guard let declared = loaded.catalog.repositories.first, case .file(let passwordFile) = declared.password else {
      throw DemoError.story("the bank's catalog names no repository with a password file")
    }
    try Files.replace(passwordFile, with: Array(Hex.encode(host.randomness.bytes(24)).utf8), mode: 0o600)
    _ = try await system.vaults.create(declared)
    _ = try await system.startAll()
    let backup = Backup(system, journal: try await Registry.journal(host))
    guard let target = try backup.targets().first(where: { $0.group == "bank" }) else {
      throw DemoError.story("the bank's catalog has no group 'bank'")
    }
    var chosen = Backup.Options()
    chosen.holds = options.holds
    chosen.apart = .milliseconds(100)
    let how = chosen
    var calm: JSONValue?
    if options.calm > .zero {
      (_, calm) = try await bank.underLoad(rate: 0, seed: options.seed &+ 1, record: root + "/calm.txt") {
        try await host.time.sleep(for: options.calm)
      }
    }
    let (taken, load) = try await bank.underLoad(rate: 0, seed: options.seed, record: root + "/acknowledged.txt") {
      var points: [RecoveryPoint] = []
      try await host.time.sleep(for: .seconds(1))
      for number in 1...options.runs {
        let point = try await backup.take(target, how)
        points.append(point)
        say("took \(number)/\(options.runs) \(point.id), pause \(point.pauseNanoseconds / 1000) us")
      }
      return points
    }
    try await system.stopAll()
    let catalog = PointCatalog(vault: try await system.vault(of: declared.name), pool: host.pool)
    var points: [Point] = []
    for (index, point) in taken.enumerated() {
      var compared: [StoreName] = []
      for store in system.catalog.stores {
        let copy = try await catalog.copy(of: store.name, in: point)
        let driver = try system.driver(of: store.name)
        let request = RestoreRequest(id: "torture-\(index)", source: copy.source, capture: copy.capture)
        _ = try await driver.restoreBeside(request)
        // A copy can be consistent with the others and still not be what was there.
        if let expected = copy.capture.contentDigest {
          let found = try await driver.digestBeside(request)
          guard found == expected else {
            throw RecoveryError.digestDiffers(store.name, parts: found?.differences(from: expected) ?? [])
          }
          compared.append(store.name)
        }
        try await driver.stop()
        try await driver.swapIn(request)
        try await driver.start()
        try await driver.discardKept(request)
      }
      // Only the stores run: nobody writes while they are asked.
      let checks = await system.checks.invariants(Set(system.catalog.invariants.map(\.name)))
      let result = Point(
        id: point.id, mode: point.mode, hasStoresOutside: point.hasStoresOutside,
        pauseNanoseconds: point.pauseNanoseconds, compared: compared, checks: checks)
      let bad = checks.filter { $0.verdict != .passed }.map { "\($0.name): \($0.summary)" }
      say(
        "restored \(index + 1)/\(taken.count) \(point.id) \(point.mode.rawValue)"
          + "\(point.hasStoresOutside ? " with stores outside" : ""), \(compared.count) compared, "
          + (bad.isEmpty ? "0 broken" : "\(result.violations) broken: \(bad.joined(separator: "; "))"))
      points.append(result)
    }
    return Outcome(seed: options.seed, points: points, calm: calm, load: load)
  }
}
