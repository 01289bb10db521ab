import CShim
import Core
import IO
import Vault

#if canImport(Glibc)
  import Glibc
#endif

/// Whole programs beside each other: salvor, restic and borg, as a shell would start them, on the same data in the same
/// run.
///
/// Every program opens its repository anew for every command, so all pay for their key each time. Every ratio is the
/// median of pairs, the peer's figure over ours; above 1, Salvor is better. Processor time is shown beside the time on the
/// wall: on a busy machine it is the steadier of the two.
enum VaultBench: Benchmark {
  static let name = "vault"
  static let summary =
    "backup, restore and check beside restic and borg: --set megabytes=, files=, rounds=, data=, peers="

  /// What is asked of a program, in this order.
  enum Step: String, CaseIterable {
    case first = "first backup"
    case fast = "first backup, fast"
    case same = "nothing changed"
    case changed = "1 % changed"
    case restore
    case check = "check, all data"
  }

  private static func steps(_ data: BenchmarkData.Kind) -> [Step] {
    switch data {
    case .mixed: Step.allCases
    case .noise: [.first, .restore, .check]
    case .tiny: [.first, .same, .restore, .check]
    }
  }

  private static func bar(_ data: BenchmarkData.Kind, _ step: Step, _ peer: Peer) -> Double? {
    if peer == .borg { return step == .fast ? nil : 3 }
    return switch (data, step) {
    case (.mixed, .first), (.noise, .first): 2.5
    case (.mixed, .fast): 3.5
    case (.mixed, .same): 8
    case (.mixed, .changed), (.mixed, .restore), (.noise, .restore): 3
    case (.tiny, .restore): 4
    case (_, .check): 3
    default: nil
    }
  }

  static func run(_ context: BenchmarkContext) async throws -> [BenchmarkRow] {
    let isFull = context.scale == .full
    let rounds = context.number("rounds") ?? (isFull ? 3 : 1)
    let peers = (context.options["peers"] ?? "restic,borg").split(separator: ",").compactMap {
      Peer(rawValue: String($0))
    }
    .filter { $0 != .borg || isFull && Peer.isInstalled("borg") }
    let kinds = (context.options["data"] ?? "mixed,noise,tiny").split(separator: ",")
      .compactMap { BenchmarkData.Kind(rawValue: String($0)) }
    var rows: [BenchmarkRow] = []
    for kind in kinds {
      rows += try await BlockingPool.shared.run {
        let data = BenchmarkData(
          kind, at: "\(context.directory)/\(kind.rawValue)",
          megabytes: context.number("megabytes") ?? (isFull ? 2000 : 8),
          files: context.number("files") ?? (isFull ? 50_000 : 200))
        try data.make()
        defer { try? bury(data.path, context) }
        return try compare(data, [.salvor] + peers, rounds: rounds, context)
      }
    }
    return rows
  }

  /// Puts a tree out of the way, to be removed when everything was measured: for minutes after many files were removed, a
  /// file system may pay for every file that is made, and whoever comes next would be blamed.
  private static func bury(_ path: String, _ context: BenchmarkContext) throws {
    let name = String(context.time.monotonicNanoseconds())
    try Files.createDirectory("\(context.directory)/buried")
    try Files.rename(path, to: "\(context.directory)/buried/\(name)")
    // One large file costs nothing but its room.
    if try BenchmarkData.files(below: "\(context.directory)/buried/\(name)").count < 10 {
      try Files.removeTree("\(context.directory)/buried/\(name)")
    }
  }

  /// What one program took for a step in one round.
  private struct Figure {
    var seconds: Double
    /// Until what was written is on stable storage, too.
    var settledSeconds: Double
    var processorSeconds: Double
    var peakMiB: Double
  }

  private static func compare(
    _ data: BenchmarkData, _ peers: [Peer], rounds: Int, _ context: BenchmarkContext
  ) throws -> [BenchmarkRow] {
    var figures: [Peer: [Step: [Figure]]] = [:]
    var repositoryBytes: [Peer: Int64] = [:]
    var fastBytes: Int64 = 0
    for round in 0..<max(1, rounds) {
      // Whoever goes second finds a warmer machine: take turns.
      let order = round % 2 == 0 ? peers : peers.reversed()
      func places(_ peer: Peer) -> String { "\(context.directory)/\(peer.rawValue)" }
      func measure(_ step: Step, _ peer: Peer) throws {
        let runner = PeerRunner(peer, place: places(peer), data: data.path)
        // The cache is warm for all, however they write and whatever came between.
        try BenchmarkData.warm(step == .restore || step == .check ? runner.repository : data.path)
        // What the one before has left to be written is not for this one to wait for.
        sync()
        let start = context.time.monotonicNanoseconds()
        let measured = try runner.run(step)
        let end = context.time.monotonicNanoseconds()
        sync()
        figures[peer, default: [:]][step, default: []].append(
          Figure(
            seconds: Double(end - start) / 1e9,
            settledSeconds: Double(context.time.monotonicNanoseconds() - start) / 1e9,
            processorSeconds: Double(measured.processor_us) / 1e6, peakMiB: Double(measured.peak_kib) / 1024))
        if step == .restore {
          try data.compare(with: runner.restored)
          try bury(runner.restoreTarget, context)
        }
        if step == .fast {
          fastBytes = try BenchmarkData.bytes(below: runner.fastRepository)
          try Files.removeTree(runner.fastRepository)
        }
        if step == .first { repositoryBytes[peer] = try BenchmarkData.bytes(below: runner.repository) }
      }
      for peer in order { try PeerRunner(peer, place: places(peer), data: data.path).prepare() }
      for step in steps(data.kind) {
        if step == .changed { try data.change(round: round) }
        for peer in order where step != .fast || peer == .salvor { try measure(step, peer) }
      }
      for peer in order { try Files.removeTree(places(peer)) }
    }

    var rows = [
      BenchmarkRow("\(data.kind.rawValue): data", Double(try BenchmarkData.bytes(below: data.path)) / 1e6, "MB")
    ]
    func values(_ peer: Peer, _ step: Step, _ value: (Figure) -> Double) -> [Double] {
      (figures[peer]?[step] ?? []).map(value)
    }
    for step in steps(data.kind) {
      let title = "\(data.kind.rawValue): \(step.rawValue)"
      rows.append(BenchmarkRow("\(title), salvor", median(values(.salvor, step, \.seconds)), "s"))
      rows.append(BenchmarkRow("\(title), salvor, processor", median(values(.salvor, step, \.processorSeconds)), "s"))
      for peer in peers where peer != .salvor {
        let counterpart = step == .fast ? .first : step
        rows.append(BenchmarkRow("\(title), \(peer.rawValue)", median(values(peer, counterpart, \.seconds)), "s"))
        func ratio(_ value: (Figure) -> Double) -> Double {
          median(zip(values(peer, counterpart, value), values(.salvor, step, value)).map { $0 / $1 })
        }
        rows.append(
          BenchmarkRow(
            "\(title), \(peer.rawValue), ratio", ratio(\.seconds), "×",
            bar: bar(data.kind, step, peer).map { .atLeast($0) }))
        rows.append(BenchmarkRow("\(title), \(peer.rawValue), processor ratio", ratio(\.processorSeconds), "×"))
        // Only one of them promises that a power cut right after it loses nothing.
        if step == .restore {
          rows.append(
            BenchmarkRow(
              "\(title), \(peer.rawValue), ratio until it is on stable storage", ratio(\.settledSeconds), "×"))
        }
      }
    }
    for peer in peers {
      let peak = figures[peer]?.values.joined().map(\.peakMiB).max() ?? 0
      rows.append(BenchmarkRow("\(data.kind.rawValue): peak memory, \(peer.rawValue)", peak, "MiB"))
      rows.append(
        BenchmarkRow(
          "\(data.kind.rawValue): repository, \(peer.rawValue)", Double(repositoryBytes[peer] ?? 0) / 1e6, "MB"))
    }
    func peak(_ peer: Peer) -> Double? { figures[peer]?.values.joined().map(\.peakMiB).max() }
    if let restic = peak(.restic), let own = peak(.salvor) {
      rows.append(
        BenchmarkRow("\(data.kind.rawValue): peak memory over restic's", own / restic, "×", bar: .atMost(1)))
    }
    if let restic = repositoryBytes[.restic], let own = repositoryBytes[.salvor] {
      rows.append(
        BenchmarkRow(
          "\(data.kind.rawValue): repository over restic's", Double(own) / Double(restic), "×", bar: .atMost(1)))
      if fastBytes > 0 {
        rows.append(
          BenchmarkRow(
            "\(data.kind.rawValue): fast repository over restic's", Double(fastBytes) / Double(restic), "×",
            bar: .atMost(1.08)))
      }
    }
    return rows + (try limit(data, median(values(.salvor, .first, \.seconds)), context))
  }

  /// How near the first backup came to what its parts cost by themselves.
  private static func limit(
    _ data: BenchmarkData, _ seconds: Double, _ context: BenchmarkContext
  ) throws -> [BenchmarkRow] {
    let all = try BenchmarkData.bytes(below: data.path)
    // Every n-th file, so that the sample is of all kinds.
    let limitBytes: Int64 = context.scale == .full ? 300_000_000 : 2_000_000
    let every = max(1, Int(all / limitBytes))
    let files = try BenchmarkData.files(below: data.path).enumerated().filter { $0.offset % every == 0 }.map(\.element)
    let limit = try PipelineLimit.measure(files, limitBytes: limitBytes, level: .auto, time: context.time)
    let perByte = limit.total / .seconds(1) / Double(max(1, limit.bytes))
    let bound = perByte * Double(all) / Double(VaultSettings().processors)
    let parts: [(String, Duration)] = [
      ("cutting", limit.cutting), ("hashing", limit.hashing), ("compressing and sealing", limit.encoding),
      ("opening again and comparing", limit.inspecting),
    ]
    return parts.map { name, duration in
      BenchmarkRow(
        "\(data.kind.rawValue): \(name), one core", Double(limit.bytes) / 1e6 / max(1e-9, duration / .seconds(1)),
        "MB/s")
    } + [
      BenchmarkRow("\(data.kind.rawValue): first backup by its parts alone", bound, "s"),
      BenchmarkRow("\(data.kind.rawValue): share of that limit", bound / seconds, "×"),
    ]
  }
}

/// A program that is measured.
enum Peer: String {
  case salvor, restic, borg

  static func isInstalled(_ name: String) -> Bool {
    (ProcessPath.directories + ["/usr/bin"]).contains { access("\($0)/\(name)", X_OK) == 0 }
  }
}

enum ProcessPath {
  static var directories: [String] {
    getenv("PATH").map { String(cString: $0).split(separator: ":").map(String.init) } ?? []
  }
}

/// Carries one step out with one program, in a directory of its own. Blocks.
struct PeerRunner {
  let peer: Peer
  let place: String
  let data: String

  init(_ peer: Peer, place: String, data: String) { (self.peer, self.place, self.data) = (peer, place, data) }

  var repository: String { place + "/repository" }
  var fastRepository: String { place + "/fast" }
  var restoreTarget: String { place + "/restored" }
  var restored: String { restoreTarget + data }
  private var passwordFile: String { place + "/password" }

  func prepare() throws {
    try Files.createDirectory(place)
    try Files.replace(passwordFile, with: Array("benchmark".utf8))
    switch peer {
    case .salvor:
      _ = try call(salvor + ["init", "-q", "-r", repository])
      _ = try call(salvor + ["init", "-q", "-r", fastRepository])
    case .restic: _ = try call(restic + ["init"])
    case .borg: _ = try call(["borg", "init", "--encryption", "repokey", repository])
    }
  }

  func run(_ step: VaultBench.Step) throws -> salvor_measured {
    switch peer {
    case .salvor:
      let options = ["-q", "-r", repository]
      return switch step {
      case .first, .same, .changed: try call(salvor + ["backup", data] + options)
      case .fast: try call(salvor + ["backup", data, "-q", "-r", fastRepository, "--compression", "fast"])
      case .restore: try call(salvor + ["restore", "latest", "--target", restoreTarget] + options)
      case .check: try call(salvor + ["check", "--read-data"] + options)
      }
    case .restic:
      return switch step {
      case .first, .fast, .same, .changed: try call(restic + ["backup", data])
      case .restore: try call(restic + ["restore", "latest", "--target", restoreTarget])
      case .check: try call(restic + ["check", "--read-data"])
      }
    case .borg:
      switch step {
      case .first, .fast, .same, .changed:
        return try call([
          "borg", "create", "-C", "zstd,3", "\(repository)::\(step == .first ? "first" : "{utcnow}")", data,
        ])
      case .restore:
        try Files.createDirectory(restoreTarget)
        let script = #"cd "$1" && exec borg extract "$2::$(borg list --last 1 --short "$2")""#
        return try call(["sh", "-c", script, "sh", restoreTarget, repository])
      case .check: return try call(["borg", "check", "--verify-data", repository])
      }
    }
  }

  var salvor: [String] { [MeasuredProgram.own, "vault"] }
  private var restic: [String] { ["restic", "-q", "--no-cache", "-r", repository] }

  /// Carries a command out in this place's environment.
  func call(_ words: [String]) throws -> salvor_measured {
    try MeasuredProgram.run(
      words, at: place,
      environment: [
        "RESTIC_PASSWORD_FILE=\(passwordFile)", "BORG_PASSCOMMAND=cat \(passwordFile)", "BORG_BASE_DIR=\(place)/borg",
      ])
  }
}
