import Core
import Foundation
import IO
import TestSupport
import Testing

@Suite("salvor vault mirror") struct MirrorTests {
  private func picture(_ path: String) async throws -> String {
    try await CommandRun(
      ["bash", "-euc", "find . -type f -print0 | sort -z | xargs -0r sha256sum"], in: path
    ).succeeded().output
  }

  @Test(.timeLimit(.minutes(10)))
  func `a mirror is the same, is restic's, is checked, and mends the repository`() async throws {
    let fixture = try await VaultFixture.withRepository()
    let second = fixture.directory.file("second")
    let mirrors = ["SALVOR_MIRRORS": second]
    let none = try await fixture.salvor("mirror", "sync")
    #expect(none.status == 2 && none.errors.contains("VAULT-196"), "\(none.errors)")
    // No command but `sync` makes a mirror.
    let first = try await fixture.salvor("--mirror", second, "backup", "source")
    #expect(first.status == 0 && first.errors.contains("warning: VAULT-194"), "\(first.errors)")
    #expect(!Files.exists(second))
    expectFailure(try await fixture.salvor("mirror", "status", "--mirror", second), 4, "VAULT-198")
    let dry = try await fixture.salvor("mirror", "sync", "--dry-run", environment: mirrors).succeeded()
    #expect(dry.output.contains("behind by") && !Files.exists(second))
    try await fixture.salvor("mirror", "sync", environment: mirrors).succeeded()
    #expect(try await picture(second) == fixture.repositoryPicture())

    // In one pass, by option and by variable, before and after the command.
    try fixture.write("plain", Array("changed\n".utf8))
    let silent = try await fixture.salvor("backup", "source", "--mirror", second).succeeded()
    #expect(!silent.errors.contains("VAULT-194"), "\(silent.errors)")
    #expect(try await picture(second) == fixture.repositoryPicture())
    try fixture.write("plain", Array("changed again\n".utf8))
    try await fixture.salvor("--mirror", second, "backup", "source").succeeded()
    #expect(try await picture(second) == fixture.repositoryPicture())
    // Behind, and caught up by the next backup.
    try await fixture.salvor("forget", "--keep-last", "1", "--prune").succeeded()
    try fixture.write("plain", Array("changed once more\n".utf8))
    try await fixture.salvor("backup", "source").succeeded()
    try await fixture.salvor("backup", "source", environment: mirrors).succeeded()
    let status = try await fixture.salvor("mirror", "status", "--json", environment: mirrors).succeeded().output
    let standing = try CanonicalJSON.decode(JSONValue.self, from: Array(status.utf8))
    #expect(standing.array?.first?["in_step"] == true && standing.array?.first?["only_there"] != 0, "\(status)")
    try await fixture.salvor("mirror", "sync", "--delete", environment: mirrors).succeeded()
    #expect(try await picture(second) == fixture.repositoryPicture())
    try await fixture.salvor("forget", "--keep-last", "1", "--prune", "--max-unused", "0", environment: mirrors)
      .succeeded()
    let whole = try await fixture.repositoryPicture()
    #expect(try await picture(second) == whole)
    var copy = fixture
    copy.repository = second
    try await copy.restic("check", "--read-data")

    // Every pack of the repository is hurt; what is read comes from the mirror, and mends it.
    try await fixture.shell(
      "cd \(fixture.repository)/data; for p in */*; do chmod u+w $p; printf X | dd of=$p bs=1 seek=40 conv=notrunc "
        + "status=none; done")
    let checked = try await fixture.salvor("check", "--read-data", "--json", environment: mirrors)
    #expect(checked.status == 4, "a check mends nothing")
    let report = try CanonicalJSON.decode(JSONValue.self, from: Array(checked.output.utf8))
    #expect(report["sound"] == false && report["mirrors"]?.array?.first?["sound"] == true, "\(checked.output)")
    let target = fixture.directory.file("out")
    expectFailure(try await fixture.salvor("restore", "latest", "-t", fixture.directory.file("no")), 1, "VAULT-121")
    let restored = try await fixture.salvor("restore", "latest", "-t", target, "--verify", environment: mirrors)
    #expect(restored.status == 0 && restored.errors.contains("warning: VAULT-193"), "\(restored.errors)")
    #expect(try await VaultFixture.picture(target + fixture.source) == VaultFixture.picture(fixture.source))
    try await fixture.salvor("repair", "packs", environment: mirrors).succeeded()
    #expect(try await fixture.repositoryPicture() == whole)

    // A damaged mirror is named.
    try await fixture.shell(
      "cd \(second)/data; p=$(ls */* | head -1); chmod u+w $p; printf X | dd of=$p bs=1 seek=40 conv=notrunc status=none"
    )
    expectFailure(try await fixture.salvor("check", "--read-data", environment: mirrors), 4, "VAULT-195")
    try await copy.salvor("repair", "packs", "--from-mirror", fixture.repository).succeeded()
    try await fixture.salvor("check", "--read-data", environment: mirrors).succeeded()
    #expect(try await picture(second) == whole)
  }
}
