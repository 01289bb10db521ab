import Core
import Foundation
import IO
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

/// Two servers, a group of both, and a client that writes to the one and then to the other.
private final class PairSite: @unchecked Sendable {
  // Used by one task at a time.
  let causes: PostgreSQLServer
  let effects: PostgreSQLServer
  let home: TemporaryDirectory
  private let program: String
  private(set) var follower: PipedProcess?
  private var writer: PipedProcess?

  private init() async throws {
    home = try TemporaryDirectory("barrier")
    program = try CommandRun.product("salvor")
    causes = try await PostgreSQLServer.start()
    effects = try await PostgreSQLServer.start()
    _ = try await salvor(
      "init", "--file", home.file("first.yaml"), "--repository", home.file("vault"), "--password-file",
      home.file("password")
    ).succeeded()
    let runAs = PostgreSQLServer.owner == nil ? "" : ", runAs: postgres"
    func store(_ name: String, _ server: PostgreSQLServer) -> String {
      """
          - name: \(name)
            postgresql: {dataDirectory: "\(server.data)", port: \(server.port), password: "file:\(server.passwordFile)"\(runAs)}
      """
    }
    let catalog = """
      apiVersion: salvor.dev/v1
      kind: Repository
      metadata: {name: main}
      spec: {location: "local:\(home.file("vault"))", password: "file:\(home.file("password"))"}
      ---
      apiVersion: salvor.dev/v1
      kind: Service
      metadata: {name: shop}
      spec:
        stores:
      \(store("a-causes", causes))
      \(store("b-effects", effects))
      ---
      apiVersion: salvor.dev/v1
      kind: Service
      metadata: {name: paper}
      spec:
        stores:
          - name: c-notes
            files: {path: "\(home.file("notes"))", lockFile: .lock}
      ---
      apiVersion: salvor.dev/v1
      kind: ConsistencyGroup
      metadata: {name: pair}
      spec:
        stores: [a-causes, b-effects, c-notes]
        holdBudget: 5s
      """
    try Files.replace(home.file("salvor.yaml"), with: Array(catalog.utf8))
    // Without a log to follow: copied with every point.
    try Files.createDirectory(home.file("notes"))
    try Files.replace(home.file("notes/.lock"), with: [])
    try note("begun")
    for server in [causes, effects] { try await server.sql("CREATE TABLE history (n bigint PRIMARY KEY)") }
  }

  static func with(_ body: (PairSite) async throws -> Void) async throws {
    let site = try await PairSite()
    let result: Result<Void, any Error>
    do { result = .success(try await body(site)) } catch { result = .failure(error) }
    site.follower?.kill()
    site.writer?.kill()
    await site.causes.shutDown()
    await site.effects.shutDown()
    try result.get()
  }

  private var environment: [String: String] {
    [
      "HOME": home.path, "SALVOR_STATE": home.file("state"), "SALVOR_CATALOG": home.file("salvor.yaml"),
      "NO_COLOR": "1", "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    ]
  }

  func salvor(_ words: String...) async throws -> CommandRun {
    try await CommandRun([program] + words, in: home.path, environment: environment)
  }

  func json(_ words: String...) async throws -> JSONValue {
    let ran = try await CommandRun([program] + words + ["-o", "json"], in: home.path, environment: environment)
    return try CanonicalJSON.decode(JSONValue.self, from: Array(ran.output.utf8))
  }

  func note(_ text: String) throws { try Files.replace(home.file("notes/note"), with: Array(text.utf8)) }

  var noted: String {
    get throws { String(decoding: try Files.read(home.file("notes/note"), limitBytes: 1000), as: UTF8.self) }
  }

  func follow() throws {
    follower = try PipedProcess([program, "follow", "--within", "300ms"], environment: environment)
  }

  /// A row there, acknowledged, and then the same row here.
  func startWriting() throws {
    func client(_ server: PostgreSQLServer) -> String {
      "psql -XAtq -v ON_ERROR_STOP=1 \"host=127.0.0.1 port=\(server.port) user=\(PostgreSQLServer.user) dbname=postgres\""
    }
    let script = """
      coproc A { exec \(client(causes)); }
      coproc B { exec \(client(effects)); }
      n=0
      while :; do
        n=$((n + 1))
        echo "INSERT INTO history VALUES ($n) RETURNING n;" >&${A[1]}; read -r got <&${A[0]} || exit 1
        echo "INSERT INTO history VALUES ($n) RETURNING n;" >&${B[1]}; read -r got <&${B[0]} || exit 1
      done
      """
    writer = try PipedProcess(
      ["bash", "-c", script.replacing("coproc B", with: "exec 3>&2 2>/dev/null; coproc B")],
      environment: ["PGPASSWORD": PostgreSQLServer.password])
  }

  func stopWriting() { writer?.kill() }

  struct Link: CustomStringConvertible {
    var causes: Set<Int64>
    var effects: Set<Int64>
    /// Of one client there is at most one row whose effect has not been written.
    var isWhole: Bool { effects.isSubset(of: causes) && causes.count - effects.count <= 1 }
    var description: String { "\(causes.count) causes, \(effects.count) effects" }
  }

  func link() async throws -> Link {
    func numbers(_ server: PostgreSQLServer) async throws -> Set<Int64> {
      Set(try await server.sql("SELECT n FROM history").split(separator: "\n").compactMap { Int64($0) })
    }
    return Link(causes: try await numbers(causes), effects: try await numbers(effects))
  }

  func until(_ what: String, seconds: Int = 60, _ isSo: () async throws -> Bool) async throws {
    for _ in 0..<seconds * 20 {
      if try await isSo() { return }
      try await Task.sleep(for: .milliseconds(50))
    }
    Issue.record("it never came to be that \(what): \(follower?.errors ?? "")")
  }
}

@Suite("Points along logs", .serialized) struct BarrierTests {
  @Test(.timeLimit(.minutes(5)))
  func `every point of stores that were only marked comes back whole, and unheld ones don't`() async throws {
    try await PairSite.with { site in
      try site.follow()
      try await site.salvor("backup", "-q").succeeded()
      try site.startWriting()
      try await site.until("work is done") { try await site.link().effects.count >= 50 }
      try await site.salvor("point", "take", "pair", "--every", "400ms", "--count", "8", "-q").succeeded()
      try site.note("forty-two")
      let named = try await site.salvor("point", "take", "pair", "--name", "release-42", "--wait", "30s")
      try named.succeeded()
      #expect(named.output.contains("'release-42'") && named.output.contains("barrier"), "\(named)")
      try site.note("later")
      let odd = try await site.salvor(
        "point", "take", "pair", "--no-hold", "--apart", "500ms", "--wait", "30s", "-o", "json")
      try odd.succeeded()
      try await site.until("work goes on after it") { try await site.link().effects.count >= 100 }
      let time = Timestamp(seconds: Int64(Date().timeIntervalSince1970))
      try await Task.sleep(for: .seconds(3))
      site.stopWriting()
      let points = try #require(try await site.json("points").array)
      let marked = points.filter { $0["logged"] != nil && $0["mode"]?.string == "barrier" }
      let unheld = try #require(points.first { $0["logged"] != nil && $0["mode"]?.string == "fuzzy" })
      #expect(marked.count == 9, "\(points)")
      let before = try await site.link()
      try await Task.sleep(for: .seconds(2))
      site.follower?.terminate()
      _ = site.follower?.wait()

      let verified = try await site.salvor("verify", try #require(marked[8]["id"]?.string))
      #expect(
        verified.status == 0 && verified.output.split(separator: "\n").count { $0.contains("whole") } == 3,
        "\(verified)")
      let usual = try await site.salvor("verify")
      #expect(usual.status == 0 && usual.output.contains("b-effects"), "\(usual)")
      var sizes: [Int] = []
      func comesBack(_ words: String...) async throws -> PairSite.Link {
        let ran = try await CommandRun(
          [try CommandRun.product("salvor"), "restore", "--yes", "-q"] + words, in: site.home.path,
          environment: [
            "SALVOR_STATE": site.home.file("state"), "SALVOR_CATALOG": site.home.file("salvor.yaml"),
            "HOME": site.home.path, "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
          ])
        try ran.succeeded()
        let link = try await site.link()
        try await site.salvor("run", "release", "latest", "--yes").succeeded()
        return link
      }
      for point in [marked[0], marked[4], marked[8]] {
        let link = try await comesBack("--point", try #require(point["id"]?.string))
        #expect(link.isWhole, "\(link)")
        sizes.append(link.effects.count)
        #expect(try site.noted == (sizes.count == 3 ? "forty-two" : "begun"))
      }
      #expect(sizes == sizes.sorted() && Set(sizes).count == 3 && sizes[0] >= 50, "each at its own moment: \(sizes)")
      #expect(sizes[2] < before.effects.count)
      // The negative control: half a second between the one mark and the other.
      let broken = try await comesBack("--point", try #require(unheld["id"]?.string))
      #expect(!broken.isWhole, "\(broken)")
      // Without a point the newest that is whole; at a time between points every store by its clock.
      let aligned = try await comesBack("shop", "--to", time.description)
      #expect(aligned.causes.count > broken.causes.count && aligned.causes.count <= before.causes.count, "\(aligned)")
      #expect(abs(aligned.causes.count - aligned.effects.count) <= 50, "\(aligned): one machine has one clock")
      let newest = try await comesBack()
      #expect(newest.isWhole && newest.effects.count == sizes[2], "\(newest) \(sizes)")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `a point whose log has not come is said to be out of reach`() async throws {
    try await PairSite.with { site in
      try await site.salvor("backup", "-q").succeeded()
      let alone = try await site.salvor("point", "take", "pair", "--wait", "0s")
      #expect(alone.status == 3 && alone.errors.contains("a-causes"), "\(alone)")
      let id = try #require(try await site.json("points").array?.last?["id"]?.string)
      let named = try await site.salvor("restore", "--point", id, "--yes", "-q")
      #expect(named.status != 0 && named.errors.contains("POINT-204"), "\(named)")
      // The copy from before is what there is.
      let plan = try await site.salvor("plan", "restore")
      #expect(plan.status == 0 && plan.output.contains("can't be brought there"), "\(plan)")
      let none = try await site.salvor("point", "take", "nobody")
      #expect(none.status != 0 && none.errors.contains("nobody"), "\(none)")
    }
  }
}
