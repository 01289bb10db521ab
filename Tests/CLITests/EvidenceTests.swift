import Core
import Foundation
import IO
import TestSupport
import Testing

@Suite("The command line's evidence")
struct EvidenceTests {
  /// A machine that has nothing: no state, no catalog, no network that anything here would use.
  private func elsewhere(_ site: Site, _ words: String..., empty: TemporaryDirectory) async throws -> Ran {
    try await Program(
      [site.program] + words, in: empty.path, environment: ["PATH": "/usr/bin:/bin", "HOME": empty.path]
    ).wait()
  }

  @Test(.timeLimit(.minutes(5)))
  func `what was done is proved on an empty machine, and by another program`() async throws {
    let site = try await Site()
    let (keys, bundle) = (site.home.file("log.keys"), site.home.file("restore.bundle"))
    let taken = site.home.file("backup.bundle")
    try await site.salvor("backup", is: 0)
    try await site.salvor("verify", is: 0)
    try await site.damage()
    try await site.salvor("restore", "--yes", "-q", is: 0)
    try site.write(keys, try await site.salvor("evidence", "key", "--log", is: 0).out)
    try await site.salvor("evidence", "export", "latest", "-o", bundle, is: 0)
    try await site.salvor("evidence", "export", try await site.newestPoint(), "-o", taken, is: 0)
    // Every act has both its entries, and the log is what the journal has.
    let actions = try await site.salvor("evidence", "log", "--limit", "0", "-o", "json", is: 0).json?.array ?? []
    for subject in ["backup/bank", "verify/newest"] {
      let about = actions.filter { $0["subject"]?.string == subject }.compactMap { $0["action"]?.string }
      #expect(about == ["act.intended", "act.succeeded"], "\(subject)")
    }
    let checked = try await site.salvor("evidence", "check", "--repositories", is: 0)
    #expect(checked.out.contains("goes on from 1 copy in main"), "\(checked)")

    let empty = try TemporaryDirectory("empty")
    for file in [bundle, taken] {
      let verified = try await elsewhere(site, "evidence", "verify", file, "--key", keys, empty: empty)
      #expect(verified.status == 0 && verified.out.contains("ML-DSA-65"), "\(verified)")
      #expect(!verified.out.contains("refuted"))
    }
    let unknown = try await elsewhere(site, "evidence", "verify", bundle, empty: empty)
    #expect(unknown.status == 4 && unknown.err.contains("EVIDENCE-209"), "\(unknown)")
    #expect(try Files.names(in: empty.path).isEmpty, "nothing was made there")
    var forged = try Files.read(bundle)
    forged[forged.count / 3] ^= 1
    try Files.replace(bundle + ".forged", with: forged)
    let refused = try await elsewhere(site, "evidence", "verify", bundle + ".forged", "--key", keys, empty: empty)
    #expect(refused.status == 4 && refused.out.contains("refuted"), "\(refused)")

    let page = site.home.file("report.html")
    let reported = try await elsewhere(
      site, "evidence", "report", taken, bundle, "--key", keys, "-o", page, empty: empty)
    #expect(reported.status == 0, "\(reported)")
    let html = String(decoding: try Files.read(page), as: UTF8.self)
    #expect(html.contains("Article 12(7)") && html.contains("Every bundle verifies"))
    #expect(!html.contains("http://") && !html.contains("<script"))

    let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent()
    let other = try await Program(
      [
        root.appending(path: ".build/test-tools/bin/python3").path,
        root.appending(path: "Tests/Verifier/verify-bundle.py").path, keys, bundle, taken, bundle + ".forged",
      ], in: empty.path, environment: ["PATH": "/usr/bin:/bin", "HOME": empty.path]
    ).wait()
    #expect(other.out.split(separator: "\n").map { $0.prefix(3) } == ["OK ", "OK ", "BRO"], "\(other)")
  }

  @Test(.timeLimit(.minutes(5)))
  func `a witness sees a fork, a lost journal is not glossed over, and keys are changed`() async throws {
    let site = try await Site()
    let (keys, seen) = (site.home.file("log.keys"), site.home.file("seen"))
    let (request, witnesses) = (site.home.file("request"), site.home.file("witness.keys"))
    try await site.salvor("backup", "-q", is: 0)
    try site.write(keys, try await site.salvor("evidence", "key", "--log", is: 0).out)
    let watching = ["--state", site.home.file("witness-state")]
    func witness(_ words: String...) async throws -> Ran {
      try await site.start(["evidence", "witness"] + words + watching).wait()
    }
    try site.write(witnesses, try await witness("--print-key").out)
    try site.write(request, try await site.salvor("evidence", "prove", "--since", "0", is: 0).out)
    let first = try await witness(request, "--key", keys)
    try #require(first.status == 0, "\(first)")
    try site.write(seen, first.out)
    try await site.salvor("evidence", "cosign", seen, "--witness", witnesses, is: 0)
    let bundle = site.home.file("a.bundle")
    try await site.salvor("evidence", "export", try await site.newestPoint(), "-o", bundle, is: 0)
    try await site.salvor("evidence", "verify", bundle, "--key", keys, "--witness", witnesses, is: 0)

    // Two histories from here on, each fine by itself; the witness was shown the longer one.
    let fork = site.home.file("fork")
    try await copy(site.state, fork)
    for _ in 0..<2 { try await site.salvor("verify", "-q", is: 0) }
    for _ in 0..<3 { try await site.salvor("verify", "-q", "--state", fork, is: 0) }
    let size = Int(try await witness("--seen", try await origin(site)).out.dropLast()) ?? 0
    try site.write(request, try await site.salvor("evidence", "prove", "--since", "\(size)", is: 0).out)
    let second = try await witness(request, "--key", keys)
    try #require(second.status == 0, "\(second)")
    let now = Int(try await witness("--seen", try await origin(site)).out.dropLast()) ?? 0
    try site.write(
      request, try await site.salvor("evidence", "prove", "--since", "\(now)", "--state", fork, is: 0).out)
    let forked = try await witness(request, "--key", keys)
    #expect(forked.status == 4 && forked.err.contains("EVIDENCE-207"), "\(forked)")

    // Many at once: each entry is there once, in the journal's order.
    try await withThrowingTaskGroup(of: Void.self) { group in
      for _ in 0..<3 { group.addTask { try await site.salvor("verify", "-q", is: 0) } }
      try await group.waitForAll()
    }
    try await site.salvor("evidence", "check", is: 0)

    let rotated = try await site.salvor("evidence", "rotate-key", "--yes", is: 0)
    let newKeys = site.home.file("new.keys")
    try site.write(newKeys, rotated.out)
    try await site.salvor("evidence", "check", is: 0)
    try await site.salvor("evidence", "export", try await site.newestPoint(), "-o", bundle, is: 0)
    try await site.salvor("evidence", "verify", bundle, "--key", newKeys, is: 0)
    try await site.salvor("evidence", "verify", bundle, "--key", keys, is: 4)

    for name in ["journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"] {
      try Files.removeTree("\(site.state)/\(name)")
    }
    let lost = try await site.salvor("verify", "-q", is: 0)
    #expect(lost.err.contains("EVIDENCE-212"), "\(lost)")
    try await site.salvor("evidence", "publish", is: 4)
    try await site.salvor("evidence", "publish", "--journal-replaced", "--yes", is: 0)
    let after = try await site.salvor("evidence", "log", "--limit", "0", is: 0)
    #expect(after.out.contains("log.journal-replaced"), "\(after)")
    try await site.salvor("evidence", "check", is: 0)
  }

  private func origin(_ site: Site) async throws -> String {
    let bytes = try Files.read("\(site.state)/log/checkpoint")
    return String(decoding: bytes.prefix { $0 != 10 }, as: UTF8.self)
  }

  private func copy(_ from: String, _ to: String) async throws {
    let copied = try await Program(["cp", "-a", from, to], in: "/", environment: ["PATH": "/usr/bin:/bin"]).wait()
    try #require(copied.status == 0, "\(copied)")
  }
}
