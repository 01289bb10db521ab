import Core
import Foundation
import IO
import TestSupport
import Testing

@Suite("salvor vault parity") struct ParityTests {
  /// The repository's own files.
  private func picture(_ fixture: VaultFixture) async throws -> String {
    let script = "find . -path ./salvor -prune -o -type f -print0 | sort -z | xargs -0r sha256sum"
    return try await CommandRun(["bash", "-euc", script], in: fixture.repository).succeeded().output
  }

  @Test(.timeLimit(.minutes(10)))
  func `without a second copy a damaged repository is whole again, and restic sees nothing of it`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.salvor("backup", "source").succeeded()
    expectFailure(try await fixture.salvor("parity", "check"), 1, "PARITY-102")
    #expect(try await fixture.salvor("parity", "add", "--parity", "0%").status == 2)
    try await fixture.salvor("parity", "add", "--parity", "10%").succeeded()
    expectFailure(try await fixture.salvor("parity", "add", "--parity", "20%"), 1, "PARITY-103")
    let all = try await fixture.salvor("parity", "check", "--read-data").succeeded()
    #expect(all.output.contains("0 without, 0 with damaged parity"), "\(all.output)")

    // From now on in one pass; restic's own work leaves it behind, and says nothing.
    try fixture.write("plain", Array("changed\n".utf8))
    try await fixture.salvor("backup", "source").succeeded()
    try await fixture.salvor("parity", "check", "--read-data").succeeded()
    try fixture.write("plain", Array("changed again\n".utf8))
    try await fixture.restic("backup", fixture.source)
    expectFailure(try await fixture.salvor("parity", "check"), 4, "PARITY-104")
    let checked = try await fixture.salvor("check").succeeded()
    #expect(checked.output.contains("parity: "), "\(checked.output)")
    try await fixture.restic("forget", "--keep-last", "2", "--group-by", "", "--prune")
    try await fixture.salvor("parity", "add", "--tidy").succeeded()
    try await fixture.salvor("forget", "--keep-last", "1", "--group-by", "host", "--prune", "--max-unused", "0")
      .succeeded()
    let report = try await fixture.salvor("parity", "check", "--read-data", "--json").succeeded().output
    let json = try CanonicalJSON.decode(JSONValue.self, from: Array(report.utf8))
    #expect(json["stale"]?.array?.isEmpty == true && json["missing"]?.array?.isEmpty == true, "\(report)")
    try await fixture.restic("check", "--read-data")

    let whole = try await picture(fixture)
    try await fixture.shell(
      """
      cd \(fixture.repository); chmod -R u+w .
      for p in data/*/* keys/*; do printf X | dd of=$p bs=1 seek=50 conv=notrunc status=none; done
      rm index/* snapshots/* config
      """)
    expectFailure(try await fixture.salvor("check", "--read-data"), 1, "VAULT-102")
    let dry = try await fixture.salvor("repair", "files", "--removed", "--dry-run").succeeded()
    #expect(dry.output.contains("would be brought back"), "\(dry.output)")
    let repaired = try await fixture.salvor("repair", "files", "--removed").succeeded()
    #expect(repaired.output.contains("0 lost"), "\(repaired.output)")
    #expect(try await picture(fixture) == whole, "byte for byte")
    try await fixture.restic("check", "--read-data")

    // What is read damaged is mended on the way.
    try await fixture.shell(
      "cd \(fixture.repository)/data; for p in */*; do printf X | dd of=$p bs=1 seek=70 conv=notrunc status=none; done")
    let target = fixture.directory.file("out")
    let restored = try await fixture.salvor("restore", "latest", "-t", target, "--verify").succeeded()
    #expect(restored.errors.contains("VAULT-193"))
    #expect(try await VaultFixture.picture(target + fixture.source) == VaultFixture.picture(fixture.source))

    // More than there is parity for.
    try await fixture.shell(
      "cd \(fixture.repository)/data; p=$(ls -S */* | head -1); dd if=/dev/zero of=$p bs=1M count=2 conv=notrunc status=none"
    )
    let lost = try await fixture.salvor("repair", "files")
    expectFailure(lost, 4, "PARITY-106")
    #expect(lost.output.contains("nothing has it whole"))
    try await fixture.salvor("parity", "drop").succeeded()
    #expect(!Files.exists("\(fixture.repository)/salvor/config"))
  }
}
