import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Backups and restores of one live cluster beside pgBackRest and pg_basebackup, as a shell would start them.
///
/// All compress with zstd at level 3, with two processes or threads, into a directory on the same disk, and begin with a
/// checkpoint that has nothing to write. Salvor's figures have no content digest, which the others don't have either.
/// Every ratio is the median of pairs, the peer's figure over ours; above 1, Salvor is better.
enum PostgreSQLBench: Benchmark {
  static let name = "postgres"
  static let summary =
    "full and incremental backup, and restore, beside pgBackRest and pg_basebackup: --set scale=, transactions=, rounds="

  enum Step: String, CaseIterable {
    case full = "full backup"
    case few = "1 % of pages changed"
    case load = "after pgbench"
    case restore
    case delta = "restore, delta"
    case log = "a backlog of log archived"
  }

  enum Program: String, CaseIterable {
    case salvor
    case pgBackRest = "pgbackrest"
    case baseBackup = "pg_basebackup"

    func does(_ step: Step) -> Bool { self != .baseBackup || step == .full }

    fileprivate func bar(_ step: Step) -> Double? {
      switch (self, step) {
      case (.pgBackRest, .full): 1.5
      case (.baseBackup, .full): 1
      case (.pgBackRest, .load): 3
      case (.pgBackRest, .restore): 1.3
      case (.pgBackRest, .delta): 2
      case (.pgBackRest, .log): 3
      default: nil
      }
    }
  }

  static func run(_ context: BenchmarkContext) async throws -> [BenchmarkRow] {
    let isFull = context.scale == .full
    let settings = Settings(
      scale: context.number("scale") ?? (isFull ? 50 : 1),
      transactions: context.number("transactions") ?? (isFull ? 40_000 : 200),
      rounds: context.number("rounds") ?? (isFull ? 3 : 1),
      programs: Program.allCases.filter { $0 != .pgBackRest || isFull })
    return try await BlockingPool.shared.run { try compare(settings, context) }
  }

  private struct Settings: Sendable {
    var scale: Int
    var transactions: Int
    var rounds: Int
    var programs: [Program]
  }

  private static func compare(_ settings: Settings, _ context: BenchmarkContext) throws -> [BenchmarkRow] {
    var figures: [Step: [Program: [Double]]] = [:]
    let cluster = try BenchmarkCluster(at: context.directory)
    defer { cluster.stop() }
    try cluster.make(scale: settings.scale)
    for round in 0..<max(1, settings.rounds) {
      // Whoever goes second finds a warmer machine: take turns.
      let order = round % 2 == 0 ? settings.programs : settings.programs.reversed()
      try cluster.prepareRepositories()
      // Whoever reads first notes in pages what the round before left open; that is no change of this one's.
      try cluster.sql("VACUUM")
      for step in Step.allCases {
        switch step {
        case .few:
          try cluster.sql("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 6100 = \(round + 1)")
        case .load: try cluster.load(settings.transactions)
        default: break
        }
        for program in order where program.does(step) {
          // What the one before has left to be written is not for this one to wait for.
          if step == .log { try cluster.fillQueue(for: program) } else { try cluster.settle() }
          sync()
          let start = context.time.monotonicNanoseconds()
          try cluster.carryOut(step, program)
          let seconds = Double(context.time.monotonicNanoseconds() - start) / 1e9
          figures[step, default: [:]][program, default: []].append(seconds)
          try cluster.tidy(step, program)
        }
      }
    }
    var rows = [BenchmarkRow("data", Double(try cluster.bytes()) / 1e6, "MB")]
    for program in settings.programs {
      if let bytes = try cluster.repositoryBytes(program) {
        rows.append(BenchmarkRow("repository, \(program.rawValue)", Double(bytes) / 1e6, "MB"))
      }
    }
    for step in Step.allCases {
      let own = figures[step]?[.salvor] ?? []
      rows.append(BenchmarkRow("\(step.rawValue), salvor", median(own), "s"))
      for program in settings.programs where program != .salvor && program.does(step) {
        let peers = figures[step]?[program] ?? []
        rows.append(BenchmarkRow("\(step.rawValue), \(program.rawValue)", median(peers), "s"))
        rows.append(
          BenchmarkRow(
            "\(step.rawValue), \(program.rawValue), ratio", median(zip(peers, own).map { $0 / $1 }), "×",
            bar: program.bar(step).map { .atLeast($0) }))
      }
    }
    let pairs = zip(figures[.full]?[.salvor] ?? [], figures[.few]?[.salvor] ?? [])
    rows.append(
      BenchmarkRow("full backup over 1 % of pages changed", median(pairs.map { $0 / $1 }), "×", bar: .atLeast(10)))
    return rows
  }
}

/// A cluster of the benchmark's own, with pages that have checksums, and the repositories of all programs beside it. Blocks.
struct BenchmarkCluster {
  private let place: String
  private let binaries: String
  /// As root, servers and what reads their files run as the system's `postgres`.
  private let isRoot = geteuid() == 0

  private var data: String { place + "/data" }
  private func repository(_ program: PostgreSQLBench.Program) -> String { "\(place)/repository-\(program.rawValue)" }
  private func target(_ program: PostgreSQLBench.Program) -> String { "\(place)/restored-\(program.rawValue)" }
  private static let port = 5432
  private static let otherPort = 5433

  init(at place: String) throws {
    self.place = place
    let versions = try Files.names(in: "/usr/lib/postgresql").compactMap { Int($0.lossyText) }
    guard let newest = versions.max() else { throw BenchmarkError.wrong("no PostgreSQL is installed") }
    binaries = "/usr/lib/postgresql/\(newest)/bin"
  }

  func make(scale: Int) throws {
    if isRoot { try call(["chown", "postgres", place]) }
    try Files.replace(
      place + "/ask", with: Array("SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'\n".utf8),
      mode: 0o644)
    try call(asOwner: ["\(binaries)/initdb", "-D", data, "-U", "postgres", "-A", "trust", "-k", "--no-instructions"])
    let lines = [
      "listen_addresses = ''", "unix_socket_directories = '\(place)'", "port = \(Self.port)",
      "shared_buffers = 512MB", "max_wal_size = 8GB", "wal_keep_size = 8GB", "max_wal_senders = 10",
      "checkpoint_timeout = 1h", "autovacuum = off", "archive_mode = on",
      "archive_command = 'test ! -e \(place)/archives || pgbackrest --config=\(place)/pgbackrest.conf --stanza=main archive-push %p'",
    ]
    let file = try File(data + "/postgresql.conf", O_WRONLY | O_APPEND)
    try Array((lines.joined(separator: "\n") + "\n").utf8).withUnsafeBytes { try file.write($0) }
    try start(data, port: Self.port, options: "")
    try call(asOwner: connected("pgbench", ["-i", "-q", "-s", String(scale), "postgres"]))
    try Files.replace(
      place + "/pgbackrest.conf",
      with: Array(
        """
        [global]
        repo1-path=\(repository(.pgBackRest))
        compress-type=zst
        compress-level=3
        process-max=2
        start-fast=y
        log-level-file=off
        log-level-console=error
        lock-path=\(place)/lock
        spool-path=\(place)/spool
        [main]
        pg1-path=\(data)
        pg1-socket-path=\(place)
        pg1-port=\(Self.port)
        pg1-user=postgres

        """.utf8), mode: 0o644)
    try Files.replace(place + "/password", with: Array("benchmark".utf8), mode: 0o600)
    try writeCatalog("catalog.yaml", repository(.salvor), options: "")
    try writeCatalog("follow.yaml", logRepository, options: ", archiveDirectory: \"\(place)/answers/ledger\"")
  }

  /// One without a copy: the log begins with what waits, whatever others have archived before.
  private var logRepository: String { place + "/repository-log" }

  private func writeCatalog(_ name: String, _ location: String, options: String) throws {
    try Files.replace(
      place + "/" + name,
      with: Array(
        """
        apiVersion: salvor.dev/v1
        kind: Repository
        metadata: {name: main}
        spec: {location: "local:\(location)", password: "file:\(place)/password"}
        ---
        apiVersion: salvor.dev/v1
        kind: Service
        metadata: {name: app}
        spec:
          objectives: {rpo: 1h, rto: 5m}
          stores:
            - {name: ledger, driver: postgresql, options: {host: "\(place)", port: \(Self.port), dataDirectory: "\(data)"\(options)}}

        """.utf8), mode: 0o600)
  }

  /// Nothing is left to be written or archived: that would run beside whoever is measured, and is nobody's of the three.
  func settle() throws {
    try sql("CHECKPOINT")
    try call(
      ["bash", "-c", "while [ \"$(\"$@\")\" != 0 ]; do sleep 0.05; done", "wait"]
        + asOwner(connected("psql", ["-XAtq", "-f", place + "/ask", "postgres"])))
  }

  /// Some segments wait for being archived, and the archiver waits for a word.
  func fillQueue(for program: PostgreSQLBench.Program) throws {
    let command =
      program == .salvor
      ? "until test -e \(place)/answers/ledger/%f; do sleep 0.05; done"
      : pgBackRest(["--archive-async", "archive-push", "%p"]).joined(separator: " ")
    try? Files.removeTree(place + "/go")
    try sql(
      "ALTER SYSTEM SET archive_command = 'until test -e \(place)/go; do sleep 0.05; done; \(command)'")
    try sql("SELECT pg_reload_conf()")
    try sql("CHECKPOINT")
    try sql("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid <= 2000000")
    try sql("SELECT pg_switch_wal()")
    guard program == .salvor else { return }
    try? Files.removeTree(logRepository)
    try? Files.removeTree(place + "/answers")
    try Files.createDirectory(place + "/answers")
    try call([MeasuredProgram.own, "vault", "init", "-q", "-r", logRepository, "-p", place + "/password"])
  }

  private func emptyQueue(_ program: PostgreSQLBench.Program) throws {
    try Files.replace(place + "/go", with: [], mode: 0o644)
    var words = [
      "bash", "-c",
      "while [ \"$(\"$@\")\" != 0 ]; do sleep 0.05; done; [ -z \"$FOLLOWER\" ] || { kill $FOLLOWER; wait $FOLLOWER; }",
      "wait",
    ]
    if program == .salvor {
      words[2] =
        "\"\(MeasuredProgram.own)\" follow -q --catalog \(place)/follow.yaml --state \(place)/state-log & FOLLOWER=$!; "
        + words[2]
    }
    try call(words + asOwner(connected("psql", ["-XAtq", "-f", place + "/ask", "postgres"])))
  }

  /// Empty ones, for every round.
  func prepareRepositories() throws {
    try? Files.removeTree(place + "/archives")
    for program in PostgreSQLBench.Program.allCases { try? Files.removeTree(repository(program)) }
    try call([MeasuredProgram.own, "vault", "init", "-q", "-r", repository(.salvor), "-p", place + "/password"])
    guard hasPgBackRest else { return }
    try call(asOwner: ["mkdir", repository(.pgBackRest)])
    try call(asOwner: pgBackRest(["stanza-create"]))
    try call(asOwner: ["touch", place + "/archives"])
  }

  private var hasPgBackRest: Bool { Peer.isInstalled("pgbackrest") }

  private func pgBackRest(_ words: [String]) -> [String] {
    ["pgbackrest", "--config=\(place)/pgbackrest.conf", "--stanza=main"] + words
  }

  func carryOut(_ step: PostgreSQLBench.Step, _ program: PostgreSQLBench.Program) throws {
    let target = target(program)
    switch (program, step) {
    case (.salvor, .full), (.salvor, .few), (.salvor, .load):
      try call([
        MeasuredProgram.own, "backup", "-q", "--no-digest", "--catalog", place + "/catalog.yaml", "--state",
        place + "/state",
      ])
    case (.salvor, .restore), (.salvor, .delta):
      try call(
        [
          MeasuredProgram.own, "vault", "restore", "latest", "-q", "-r", repository(.salvor), "-p", place + "/password",
          "--tag", "store:ledger", "-t", target,
        ] + (step == .delta ? ["--delta"] : []))
      try start(target + "/ledger/data", port: Self.otherPort, options: "-c archive_mode=off")
    case (.pgBackRest, .full): try call(asOwner: pgBackRest(["backup", "--type=full"]))
    case (.pgBackRest, .few), (.pgBackRest, .load): try call(asOwner: pgBackRest(["backup", "--type=incr"]))
    case (.pgBackRest, .restore), (.pgBackRest, .delta):
      if step == .restore { try call(asOwner: ["mkdir", "-m", "700", target]) }
      try call(
        asOwner: pgBackRest(
          [
            "restore", "--pg1-path=\(target)", "--type=immediate", "--target-action=promote",
          ] + (step == .delta ? ["--delta"] : [])))
      try start(target, port: Self.otherPort, options: "-c archive_mode=off")
    case (.salvor, .log), (.pgBackRest, .log): try emptyQueue(program)
    case (.baseBackup, _):
      try call(
        asOwner: [
          "\(binaries)/pg_basebackup", "-h", place, "-p", String(Self.port), "-U", "postgres", "-D",
          repository(.baseBackup), "-Ft", "-c", "fast", "-X", "fetch", "--compress=server-zstd:3",
        ])
    }
  }

  func tidy(_ step: PostgreSQLBench.Step, _ program: PostgreSQLBench.Program) throws {
    let target = target(program)
    if step == .log {
      try sql("ALTER SYSTEM RESET archive_command")
      try sql("SELECT pg_reload_conf()")
    }
    guard step == .restore || step == .delta else { return }
    let restored = program == .salvor ? target + "/ledger/data" : target
    try call(asOwner: ["\(binaries)/pg_ctl", "-D", restored, "-m", "fast", "-w", "stop"])
    if step == .delta { try Files.removeTree(target) }
  }

  /// So many transactions, not so many seconds: every run changes as much.
  func load(_ transactions: Int) throws {
    try call(asOwner: connected("pgbench", ["-n", "-c", "4", "-t", String(max(1, transactions / 4)), "postgres"]))
  }

  func sql(_ statement: String) throws { try call(asOwner: connected("psql", ["-qc", statement, "postgres"])) }

  func bytes() throws -> Int64 { try BenchmarkData.bytes(below: data + "/base") }

  func repositoryBytes(_ program: PostgreSQLBench.Program) throws -> Int64? {
    Files.exists(repository(program)) ? try BenchmarkData.bytes(below: repository(program)) : nil
  }

  func stop() {
    for directory in [data] + PostgreSQLBench.Program.allCases.flatMap({ [target($0), target($0) + "/ledger/data"] })
    where Files.exists(directory + "/postmaster.pid") {
      _ = try? call(asOwner: ["\(binaries)/pg_ctl", "-D", directory, "-m", "immediate", "-w", "stop"])
    }
  }

  private func start(_ directory: String, port: Int, options: String) throws {
    try call(
      asOwner: [
        "\(binaries)/pg_ctl", "-D", directory, "-l", place + "/log-\(port)", "-w", "-o", "-p \(port) \(options)",
        "start",
      ])
  }

  private func connected(_ program: String, _ words: [String]) -> [String] {
    ["\(binaries)/\(program)", "-h", place, "-p", String(Self.port), "-U", "postgres"] + words
  }

  private func call(asOwner words: [String]) throws { try call(asOwner(words)) }

  private func asOwner(_ words: [String]) -> [String] {
    isRoot ? ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"] + words : words
  }

  private func call(_ words: [String]) throws { try MeasuredProgram.run(words, at: place) }
}
