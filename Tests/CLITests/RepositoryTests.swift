import Core
import IO
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

@Suite("The command line, with a repository that is wrong, full or damaged")
struct WrongRepositoryTests {
  @Test(.timeLimit(.minutes(10)))
  func `a wrong password, an empty one, and no repository at all`() async throws {
    let site = try await Site()
    try await site.salvor("backup", is: 0)
    let right = try Files.read(site.password)
    try site.write(site.password, "wrong\n")
    for words in [["backup"], ["points"], ["restore", "--yes"], ["verify"]] {
      let ran = try await site.start(words).wait()
      #expect(ran.status == 1 && ran.err.contains("VAULT-101") && ran.out == "", "\(ran)")
    }
    try await site.refuses("restore", "--yes", status: 1, code: "VAULT-101", saying: ["password"])
    try site.write(site.password, "\n")
    try await site.refuses("backup", status: 1, code: "SECRET-102")
    try Files.removeTree(site.password)
    try await site.refuses("backup", status: 1, code: "SECRET-101", saying: [site.password])
    try Files.replace(site.password, with: right)
    try Files.rename(site.vault, to: site.vault + "-elsewhere")
    try await site.refuses("backup", status: 1, code: "VAULT-102", saying: [site.vault])
    try await site.refuses("restore", "--yes", status: 1, code: "VAULT-102", saying: [site.vault])
    #expect(!Files.exists(site.vault), "nothing was made in its place")
  }

  @Test(.timeLimit(.minutes(10)))
  func `a mirror of the catalog gets every point, and brings back what the repository lost`() async throws {
    let site = try await Site()
    try await site.salvor("backup", is: 0)
    let mirror = site.vault + "-mirror"
    let catalog = String(decoding: try Files.read(site.catalog), as: UTF8.self)
    try site.write(
      site.catalog, catalog.replacing("\", password:", with: "\", mirrors: [\"\(mirror)\"], password:"))
    let behind = try await site.salvor("backup", is: 0)
    #expect(behind.err.contains("the mirror local:\(mirror) is behind"), "\(behind)")
    #expect(!Files.exists(mirror), "it may be a disk that is not mounted")
    try await site.run("cp", "-a", site.vault, mirror)
    try await site.add("e4", amount: 400)
    let inStep = try await site.salvor("backup", is: 0)
    #expect(!inStep.err.contains("behind"), "\(inStep)")
    try await site.run("diff", "-r", "-x", "locks", site.vault, mirror)
    try await site.run("sh", "-c", "rm \(site.vault)/data/*/*")
    let verified = try await site.salvor("verify", "--all", is: 0)
    #expect(verified.err.contains("was brought back"), "\(verified)")
    try await site.damage()
    try await site.salvor("restore", "--yes", "-q", is: 0)
  }

  @Test(.timeLimit(.minutes(10)))
  func `a full repository takes no point, and works again once there is room`() async throws {
    let site = try await Site()
    try await site.salvor("backup", is: 0)
    let size = try await site.run("du", "-sk", site.vault).prefix { $0.isNumber }
    let disk = try await Disk(site.vault, kibibytes: (Int(size) ?? 0) + 1000, keeping: true)
    defer { disk.unmount() }
    try site.write("\(site.statements)/noise", Hex.encode(SystemRandomness().bytes(2 << 20)))
    try await site.refuses("backup", status: 1, code: "STORE-105", saying: ["room", "no point was recorded"])
    #expect(try await site.salvor("points", "-o", "json", is: 0).json?.array?.count == 1)
    try await site.salvor("verify", "--all", is: 0)
    try Files.removeTree("\(site.statements)/noise")
    // To the last byte: what is there can still be brought back.
    try await site.run("sh", "-c", "cat /dev/zero > \(site.vault)/fill 2>/dev/null; true")
    try await site.damage()
    let restored = try await site.salvor("restore", "--yes", "-q", is: 0)
    #expect(restored.err.contains("without a lock"), "\(restored)")
    try Files.removeTree(site.vault + "/fill")
    // What a removal frees may be had only once it is on disk.
    try await site.run("sync", "-f", site.vault)
    try await site.salvor("backup", is: 0)
    #expect(try await site.salvor("points", "-o", "json", is: 0).json?.array?.count == 2)
  }

  @Test(.timeLimit(.minutes(10)))
  func `a truncated pack: its point is refused with the reason, and the one before it taken`() async throws {
    let site = try await Site()
    try await site.salvor("backup", is: 0)
    let older = try await site.newestPoint()
    let packs = Set(
      try await site.run("find", site.vault + "/data", "-type", "f").split(separator: "\n").map(String.init))
    try await site.add("e4", amount: 400)
    try await site.salvor("backup", is: 0)
    let newer = try await site.newestPoint()
    #expect(older != newer)
    let added = Set(
      try await site.run("find", site.vault + "/data", "-type", "f").split(separator: "\n").map(String.init)
    )
    .subtracting(packs)
    try await site.run("chmod", "-R", "u+w", site.vault)
    // One holds the content; the others hold the point itself, and what is on record.
    var hasContent = false
    for path in added.sorted() where !hasContent {
      let bytes = try Files.read(path)
      try await site.run("truncate", "-s", "\(bytes.count / 2)", path)
      let verified = try await site.salvor("verify", "-o", "json")
      hasContent = verified.status == 4 && verified.json?.array?.contains { $0["damage"]?.string != nil } == true
      if !hasContent { try Files.replace(path, with: bytes) }
    }
    try #require(hasContent)
    try await site.refuses(
      "restore", "--point", newer, "--yes", status: 6, code: "POINT-204", saying: [newer, "salvor points"])
    let plan = try await site.salvor("plan", "restore", is: 0)
    #expect(plan.out.contains("not \(newer): store '"), "\(plan)")
    let restored = try await site.salvor("restore", "--yes", is: 0)
    #expect(restored.err.contains("not \(newer)"), "\(restored)")
    #expect(try await site.entries() == Site.captured)
    #expect(!Files.exists("\(site.statements)/e4.txt"))
  }
}

/// A small file system of its own.
final class Disk: Sendable {
  private let path: String

  /// - Parameter keeping: Copy in what is there.
  init(_ path: String, kibibytes: Int, keeping: Bool = false) async throws {
    self.path = path
    let script =
      keeping
      ? "mv \"$1\" \"$1.old\" && mkdir \"$1\" && mount -t tmpfs -o size=$2k none \"$1\" && cp -a \"$1.old/.\" \"$1/\""
      : "mkdir -p \"$1\" && mount -t tmpfs -o size=$2k none \"$1\""
    let ran = try await Program(
      ["sh", "-ec", script, "sh", path, "\(kibibytes)"], in: "/", environment: ["PATH": "/usr/bin:/bin:/usr/sbin:/sbin"]
    ).wait()
    guard ran.status == 0 else { throw SystemFailure("mount \(ran)", path: path, number: EPERM) }
  }

  func unmount() { umount2(path, Int32(MNT_DETACH)) }
}
