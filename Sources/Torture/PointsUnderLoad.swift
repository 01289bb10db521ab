import Catalog
import Core
import Demo
import DriverKit
import IO
import Recovery
import Runtime
import Synchronization

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
    /// Follow logs, and take points that only mark their stores, so often; `nil` copies with every point.
    package var every: Duration?
    /// How many of the points are restored, chosen by the seed; all by default.
    package var restores = Int.max
    /// How long the load runs by itself, in all, to compare with; zero for not at all.
    package var calm: Duration = .seconds(5)
    /// In how many parts the points are taken, each after a part of the load by itself: a machine's own pace changes.
    package var rounds = 1

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
    /// Of every point that was taken, restored or not, in nanoseconds.
    package var pauses: [Int64] = []
    /// Of every point that was taken, how long each store took to be held, marked and released, in nanoseconds.
    package var timings: [StoreName: [StorePoint.Timings]] = [:]
    /// The load's summaries, by round: without points being taken, once more at the end, and with.
    package var calms: [JSONValue]
    package var loads: [JSONValue]

    package var broken: Int { points.count { $0.isBroken } }
    /// Points that are not what was asked for: one moment of every store, each of them held.
    package var lesser: Int { points.count { $0.mode != .barrier || $0.hasStoresOutside } }

    /// Transfers per second.
    private static func rate(_ load: JSONValue) -> Double? {
      guard let seconds = load["seconds"]?.number, seconds > 0 else { return nil }
      return (load["acknowledged"]?.number ?? 0) / seconds
    }

    /// What the load kept of its rate: the mean over the rounds, each compared with what was before and what came after it.
    package var throughputKept: Double? {
      var shares: [Double] = []
      for (index, load) in loads.enumerated() where index + 1 < calms.count {
        guard let rate = Self.rate(load), let before = Self.rate(calms[index]),
          let after = Self.rate(calms[index + 1]), before + after > 0
        else { return nil }
        shares.append(rate / ((before + after) / 2))
      }
      return shares.isEmpty ? nil : shares.reduce(0, +) / Double(shares.count)
    }

    /// The pause that `share` of the points stayed within, in nanoseconds.
    package func pause(_ share: Double) -> Int64 { Self.rank(pauses, share) }

    /// What `share` of the values are not above; 0 without any.
    package static func rank(_ values: [Int64], _ share: Double) -> Int64 {
      let values = values.sorted()
      guard !values.isEmpty else { return 0 }
      return values[min(values.count - 1, Int((Double(values.count) * share).rounded(.down)))]
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

  private func carryOut(_ bank: Bank, _ host: Machine, _ say: @escaping @Sendable (String) -> Void) async throws
    -> Outcome
  {
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
    var calms: [JSONValue] = []
    func calmly(_ number: Int) async throws {
      guard options.calm > .zero else { return }
      let pause = options.calm / (options.rounds + 1)
      let seed = options.seed &+ UInt64(1000 + number)
      calms.append(
        try await bank.underLoad(rate: 0, seed: seed, record: root + "/calm.txt") {
          try await host.time.sleep(for: pause)
        }.1)
    }
    var taken: [RecoveryPoint] = []
    var loads: [JSONValue] = []
    for round in 0..<options.rounds {
      try await calmly(round)
      let count = options.runs * (round + 1) / options.rounds - options.runs * round / options.rounds
      let (seed, before) = (options.seed &+ UInt64(round), taken.count)
      let tell: @Sendable (Int, RecoveryPoint) -> Void = { number, point in
        say("took \(before + number)/\(options.runs) \(point.id), pause \(point.pauseNanoseconds / 1000) us")
      }
      let (points, load): ([RecoveryPoint], JSONValue)
      if let every = options.every {
        (points, load) = try await along(system, every, count, seed, backup, target, bank, say, tell)
      } else {
        (points, load) = try await bank.underLoad(rate: 0, seed: seed, record: root + "/acknowledged.txt") {
          var points: [RecoveryPoint] = []
          try await host.time.sleep(for: .seconds(1))
          for number in 1...count {
            points.append(try await backup.take(target, how))
            tell(number, points[number - 1])
          }
          return points
        }
      }
      taken += points
      loads.append(load)
    }
    try await calmly(options.rounds)
    try await system.stopAll()
    // Restoring takes longer than all this: what is known is said now.
    var outcome = Outcome(seed: options.seed, points: [], calms: calms, loads: loads)
    outcome.pauses = taken.map(\.pauseNanoseconds)
    let kept = outcome.throughputKept.map { "\(Int(($0 * 1000).rounded()))/1000" } ?? "unknown"
    say(
      "took all: pause median \(outcome.pause(0.5) / 1000) us, 99 of 100 within \(outcome.pause(0.99) / 1000) us; "
        + "throughput kept \(kept)")
    var points: [Point] = []
    let chance = SeededRandomness(seed: options.seed)
    let sample = taken.shuffled(by: chance).prefix(options.restores).sorted { $0.time < $1.time }
    for (index, point) in sample.enumerated() {
      var compared: [StoreName] = []
      let copies = try await Runtime.Points(system).copies(of: point)
      for store in system.catalog.stores {
        guard let copy = copies[store.name] else { continue }
        let driver = try system.driver(of: store.name)
        var request = RestoreRequest(id: "torture-\(index)", source: copy.source, capture: copy.capture)
        request.replay = copy.replay
        _ = try await driver.restoreBeside(request)
        // A copy can be consistent with the others and still not be what was there.
        if copy.replay == nil, let expected = copy.capture.contentDigest {
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
        "restored \(index + 1)/\(sample.count) \(point.id) \(point.mode.rawValue)"
          + "\(point.hasStoresOutside ? " with stores outside" : ""), \(compared.count) compared, "
          + (bad.isEmpty ? "0 broken" : "\(result.violations) broken: \(bad.joined(separator: "; "))"))
      points.append(result)
    }
    outcome.points = points
    for point in taken {
      for (name, store) in point.stores { outcome.timings[name, default: []].append(store.timings) }
      for (name, store) in point.logged ?? [:] { outcome.timings[name, default: []].append(store.timings) }
    }
    return outcome
  }

  /// Points along logs: everything that can be followed is, from a copy on.
  private func along(
    _ system: ManagedSystem, _ every: Duration, _ count: Int, _ seed: UInt64, _ backup: Backup,
    _ target: Backup.Target, _ bank: Bank, _ say: @escaping @Sendable (String) -> Void,
    _ tell: @escaping @Sendable (Int, RecoveryPoint) -> Void
  ) async throws -> ([RecoveryPoint], JSONValue) {
    let (host, options) = (system.host, options)
    let follow = Follow(system)
    let stores = try follow.targets()
    let journal = try await Registry.journal(host)
    return try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask {
        try await follow.run(stores, options: LogKeeper.Options()) { store, news in
          if case .trouble(let report) = news { say("\(store): \(report)") }
          if case .gap(let why) = news { say("\(store): a gap in the log: \(why)") }
        }
      }
      // The log has to begin before the copy it leads on from is of use.
      try await host.time.sleep(for: .seconds(2))
      _ = try await backup.take(target)
      var asked = Barriers.Options()
      (asked.groups, asked.every, asked.count) = ([target.group], every, count)
      (asked.holds, asked.apart) = (options.holds, .milliseconds(100))
      let (barriers, how) = (Barriers(system, journal: journal), asked)
      let taken = PointList()
      let (_, load) = try await bank.underLoad(
        rate: 0, seed: seed, record: options.directory + "/acknowledged.txt"
      ) {
        try await host.time.sleep(for: .seconds(1))
        try await barriers.run(try barriers.targets(how), how) { news in
          switch news {
          case .taken(let point): tell(taken.add(point), point)
          case .trouble(_, let report): say("no point: \(report)")
          case .thinned: break
          }
        }
      }
      guard let last = taken.points.last else { throw DemoError.story("no point was taken") }
      let missing = try await barriers.unreached(last, within: .seconds(60))
      guard missing.isEmpty else { throw DemoError.story("logs did not come to the last point: \(missing)") }
      group.cancelAll()
      try await group.waitForAll()
      return (taken.points, load)
    }
  }
}

/// Points as they come.
private final class PointList: Sendable {
  private let list = Mutex<[RecoveryPoint]>([])
  var points: [RecoveryPoint] { list.withLock { $0 } }

  /// - Returns: How many there are now.
  func add(_ point: RecoveryPoint) -> Int {
    list.withLock {
      $0.append(point)
      return $0.count
    }
  }
}

extension [RecoveryPoint] {
  fileprivate func shuffled(by chance: SeededRandomness) -> [RecoveryPoint] {
    var result = self
    for index in result.indices.reversed() where index > 0 {
      result.swapAt(index, Int(chance.next() % UInt64(index + 1)))
    }
    return result
  }
}
