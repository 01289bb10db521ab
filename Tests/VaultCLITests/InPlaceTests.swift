import Core
import IO
import TestSupport
import Testing

@Suite("Restores in place, from the command line") struct InPlaceTests {
  @Test(.timeLimit(.minutes(5)))
  func `a restore that was killed is taken up where it was`() async throws {
    let fixture = try await VaultFixture.withRepository()
    for number in 0..<60 { try fixture.write("f\(number)", SeededRandomness(seed: UInt64(number)).bytes(3 << 20)) }
    try await fixture.salvor("backup", fixture.source).succeeded()
    let target = fixture.directory.file("out")
    let words = ["restore", "latest", "-t", target, "-p", fixture.passwordFile, "-r", fixture.repository]
    // Slow enough (30 MB/s of 190) to be killed when some files are whole, and long before all are.
    let process = try PipedProcess([CommandRun.product("salvor"), "vault"] + words + ["--limit-download", "30000"])
    while process.isRunning, try files(below: target) < 20 { try await SystemTime().sleep(for: .microseconds(500)) }
    process.kill()
    #expect(Files.exists("\(target)/SALVOR-RESTORE-INCOMPLETE"))
    expectFailure(try await fixture.salvor(words), 6, "TREE-302")

    let dry = try json(try await fixture.salvor(words + ["--delta", "--dry-run", "--json"]).succeeded())
    let run = try json(try await fixture.salvor(words + ["--delta", "--verify", "--json"]).succeeded())
    let total = run["total_bytes"]?.integer ?? 0
    let kept = run["bytes_kept"]?.integer ?? 0
    #expect(kept > 10 << 20 && kept < total && run["bytes_written"]?.integer == total - kept, "\(run)")
    #expect(dry["bytes_kept"] == run["bytes_kept"] && run["verified"] == true)
    #expect(!Files.exists("\(target)/SALVOR-RESTORE-INCOMPLETE"))
    let restored = target + fixture.source
    #expect(try await VaultFixture.picture(restored) == VaultFixture.picture(fixture.source))

    // And again, with nothing to do.
    let text = try await fixture.salvor(words + ["--overwrite", "if-changed"]).succeeded().output
    #expect(text.contains("wrote 0 B"), "\(text)")
    #expect(try await VaultFixture.picture(restored) == VaultFixture.picture(fixture.source))
  }

  @Test func `options that exclude each other`() async throws {
    let fixture = try await VaultFixture.withRepository()
    for words in [["--merge", "--delta"], ["--delta", "--overwrite", "never"], ["--overwrite", "sometimes"]] {
      let run = try await fixture.salvor(["restore", "latest", "-t", fixture.directory.file("out")] + words)
      #expect(run.status == 2, "\(run.errors)")
    }
  }

  private func json(_ run: CommandRun) throws -> JSONValue {
    try CanonicalJSON.decode(JSONValue.self, from: Array(run.output.utf8))
  }

  private func files(below directory: String) throws -> Int {
    guard Files.exists(directory) else { return 0 }
    // Files come and go while it is looked.
    return ((try? TreeReader.scan(directory)) ?? []).count { $0.metadata.kind == .regular && $0.metadata.size > 0 }
  }
}
