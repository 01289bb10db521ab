import Core
import DriverKit
import IO
import TestSupport

/// A system with one store of every kind, on real servers, and a catalog that names them.
final class AllStores: Sendable {
  let directory: TemporaryDirectory
  let cluster: PostgreSQLServer
  let redis: RedisServer
  let maria: MariaDBServer
  let nats: NATSServer
  let etcd: EtcdServer
  let rabbit: RabbitMQServer

  var documents: String { directory.file("documents") }
  var ledger: String { directory.file("ledger.db") }
  var repository: String { directory.file("repository") }
  var passwordFile: String { directory.file("password") }
  private var catalog: String { directory.file("salvor.yaml") }

  private init(
    directory: TemporaryDirectory, cluster: PostgreSQLServer, redis: RedisServer, maria: MariaDBServer,
    nats: NATSServer, etcd: EtcdServer, rabbit: RabbitMQServer
  ) {
    (self.directory, self.cluster, self.redis, self.maria) = (directory, cluster, redis, maria)
    (self.nats, self.etcd, self.rabbit) = (nats, etcd, rabbit)
  }

  static func start() async throws -> AllStores {
    let directory = try TemporaryDirectory("exit-door")
    let redis = try await BlockingPool.shared.run { try RedisServer() }
    let nats = try await BlockingPool.shared.run { try NATSServer() }
    let etcd = try await BlockingPool.shared.run { try EtcdServer() }
    let rabbit = try await BlockingPool.shared.run { try RabbitMQServer(plugins: ["rabbitmq_management"]) }
    let system = AllStores(
      directory: directory, cluster: try await .start(), redis: redis, maria: try await .start(), nats: nats,
      etcd: etcd, rabbit: rabbit)
    do {
      try await system.fill()
      return system
    } catch {
      await system.shutDown()
      throw error
    }
  }

  func shutDown() async {
    await cluster.shutDown()
    await maria.shutDown()
    await BlockingPool.shared.run {
      self.redis.stop()
      self.nats.stop()
      self.etcd.stop()
      self.rabbit.shutDown()
    }
  }

  private func fill() async throws {
    try Files.replace(passwordFile, with: Array("correct horse\n".utf8))
    let space = try cluster.ownDirectory("space")
    try await cluster.sql(
      "CREATE EXTENSION amcheck", "CREATE TABLESPACE far LOCATION '\(space)'",
      "CREATE TABLE entries (id bigint PRIMARY KEY, note text NOT NULL)",
      "CREATE TABLE far_entries (id bigint PRIMARY KEY) TABLESPACE far",
      "INSERT INTO entries SELECT n, repeat('note ' || n, 40) FROM generate_series(1, 2000) AS n",
      "INSERT INTO far_entries SELECT generate_series(1, 300)")
    try await maria.sql(
      "CREATE TABLE shop.goods (id INT PRIMARY KEY, name TEXT) ENGINE = InnoDB",
      "INSERT INTO shop.goods SELECT seq, CONCAT('good ', seq) FROM shop.seq_1_to_500",
      "CREATE TABLE shop.notes (id INT PRIMARY KEY, name TEXT) ENGINE = MyISAM",
      "INSERT INTO shop.notes VALUES (1, 'one')", "FLUSH BINARY LOGS")
    try await shell(
      """
      mkdir -p '\(documents)/2026/empty'
      seq 1 20000 > '\(documents)/2026/numbers'
      ln -s numbers '\(documents)/2026/link'; ln '\(documents)/2026/numbers' '\(documents)/second'
      chmod 2750 '\(documents)/2026'; chown 33:44 '\(documents)/second'
      touch -d '2001-02-03 04:05:06.789' '\(documents)/2026/empty'
      sqlite3 '\(ledger)' 'PRAGMA journal_mode=WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, v);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO t SELECT i, hex(i) FROM n'
      for i in $(seq 1 200); do echo "SET key:$i value-$i"; done | redis-cli -p \(redis.port)
      redis-cli -p \(redis.port) HSET session user ada state open
      redis-cli -p \(redis.port) RPUSH queue one two three
      for i in $(seq 1 50); do ETCDCTL_API=3 etcdctl --endpoints \(etcd.endpoint) put "setting/$i" "value $i"; done
      """)
    let created = #"{"name":"ORDERS","subjects":["order.>"],"max_msgs_per_subject":5}"#
    try await Self.ask(
      port: "\(nats.port)",
      [("$JS.API.STREAM.CREATE.ORDERS", created)] + (1...100).map { ("order.\($0 % 30)", "order number \($0)") })
    try await manage("PUT", "queues/%2F/parcels", #"{"durable":true}"#)
    try await send(1...30)
    let text = """
      apiVersion: salvor.dev/v1
      kind: Repository
      metadata: {name: main}
      spec: {location: "local:\(repository)", password: "file:\(passwordFile)"}
      ---
      apiVersion: salvor.dev/v1
      kind: Service
      metadata: {name: shop}
      spec:
        objectives: {rpo: 15m, rto: 10m}
        stores:
          - name: documents
            files: {path: "\(documents)", immutable: true}
          - name: ledger
            sqlite: {path: "\(ledger)"}
          - name: entries
            postgresql:
              host: 127.0.0.1
              port: \(cluster.port)
              user: \(PostgreSQLServer.user)
              password: "file:\(cluster.passwordFile)"
              dataDirectory: "\(cluster.data)"
          - name: sessions
            redis: {host: 127.0.0.1, port: \(redis.port), dataDirectory: "\(redis.dataDirectory)"}
          - name: orders
            nats: {port: \(nats.port), storeDirectory: "\(nats.storeDirectory)"}
          - name: settings
            etcd: {endpoint: "\(etcd.endpoint)", dataDirectory: "\(etcd.dataDirectory)"}
          - name: parcels
            rabbitmq: {port: \(rabbit.port), dataDirectory: "\(rabbit.dataDirectory)"}
          - name: goods
            mariadb:
              socket: "\(maria.socket)"
              password: "file:\(maria.passwordFile)"
              dataDirectory: "\(maria.data)"

      """
    try Files.replace(catalog, with: Array(text.utf8))
  }

  /// Takes a point with the built program, and returns its id.
  func takePoint() async throws -> String {
    let salvor = try CommandRun.product("salvor")
    try await CommandRun([salvor, "vault", "init", "-r", repository, "-p", passwordFile]).succeeded()
    let run = try await CommandRun(
      [salvor, "backup", "-c", catalog, "--state", directory.file("state"), "-o", "json"], in: directory.path)
    // 3: the tree of documents has no lock, so it can't be in the cut.
    guard run.status == 0 || run.status == 3 else { throw CommandRun.Failed(description: run.errors) }
    let points = try CanonicalJSON.decode([JSONValue].self, from: Array(run.output.utf8))
    guard points.count == 1, let id = points[0]["id"]?.string else {
      throw CommandRun.Failed(description: "no point in \(run.output)")
    }
    return id
  }

  /// Takes a dump of the cluster's one database.
  func takeDump() async throws {
    let salvor = try CommandRun.product("salvor")
    try await CommandRun(
      [
        salvor, "dump", "take", "entries", "--database", "postgres", "-c", catalog, "--state", directory.file("state"),
        "--work", directory.path,
      ], in: directory.path
    ).succeeded()
  }

  /// Work that goes on after the point, and must not come back.
  func goOn() async throws {
    try await cluster.sql("INSERT INTO entries VALUES (9999, 'late')", "DELETE FROM entries WHERE id < 100")
    try await maria.sql("DELETE FROM shop.goods WHERE id > 10", "INSERT INTO shop.notes VALUES (2, 'late')")
    try await shell(
      """
      echo late > '\(documents)/late'; sqlite3 '\(ledger)' 'DELETE FROM t WHERE id > 10'
      redis-cli -p \(redis.port) SET late value; redis-cli -p \(redis.port) DEL session
      ETCDCTL_API=3 etcdctl --endpoints \(etcd.endpoint) del --prefix setting/1
      """)
    try await Self.ask(port: "\(nats.port)", [("order.1", "late"), ("order.2", "late")])
    try await send(31...32)
  }

  /// Asks the node's management plugin.
  private func manage(_ method: String, _ path: String, _ body: String) async throws {
    try await shell(
      """
      curl -sSf --retry 60 --retry-connrefused --retry-delay 1 -u guest:guest -X \(method) -H 'content-type: application/json' \
        -d '\(body)' 'http://127.0.0.1:\(rabbit.managementPort)/api/\(path)' >/dev/null
      """)
  }

  /// Each message is confirmed before the next is sent.
  private func send(_ numbers: ClosedRange<Int>) async throws {
    for queue in ["parcels"] {
      for number in numbers {
        try await manage(
          "POST", "exchanges/%2F/amq.default/publish",
          #"{"routing_key":"\#(queue)","payload":"\#(queue) \#(number)","payload_encoding":"string","properties":{"delivery_mode":2}}"#
        )
      }
    }
  }

  @discardableResult
  private func shell(_ script: String) async throws -> String { try await Self.shell(script) }

  @discardableResult
  static func shell(_ script: String, environment: [String: String] = [:]) async throws -> String {
    try await CommandRun(["bash", "-euc", script], environment: environment).succeeded().output
  }

  // MARK: What is in a store, as text

  static func tree(_ path: String) async throws -> String {
    try await shell(
      """
      cd '\(path)'
      find . -printf '%P %y %m %U %G %T@ %l\\n' | sort
      find . -type f -print0 | sort -z | xargs -0r sha256sum
      """)
  }

  static func database(_ path: String) async throws -> String { try await shell("sqlite3 '\(path)' .dump") }

  static func cluster(port: String, database: String = "postgres") async throws -> String {
    let query = """
      SELECT id, note FROM entries UNION ALL SELECT id, 'far' FROM far_entries ORDER BY 1, 2
      """
    return try await PostgreSQLServer.command(
      PostgreSQLServer.program("psql"),
      ["-XAtqc", query, "host=127.0.0.1 port=\(port) user=\(PostgreSQLServer.user) dbname='\(database)'"],
      asOwner: false, environment: ["PGPASSWORD": PostgreSQLServer.password])
  }

  static func goods(socket: String) async throws -> String {
    try await shell(
      """
      mariadb --no-defaults -N -uroot --socket='\(socket)' -e 'SELECT * FROM shop.goods ORDER BY id; SELECT * FROM shop.notes'
      """)
  }

  /// Asks a NATS server, one question after the other, and gives its answers; there is no client in Debian.
  @discardableResult
  static func ask(port: String, _ questions: [(subject: String, payload: String)]) async throws -> String {
    let lines = questions.map { "\($0.subject)\t\($0.payload)" }.joined(separator: "\n")
    let script = #"""
      exec 3<>"/dev/tcp/127.0.0.1/$PORT"
      read -r -t 10 greeting <&3
      printf 'CONNECT {"verbose":false,"headers":true}\r\nSUB _INBOX.exit 1\r\n' >&3
      while IFS=$'\t' read -r subject payload; do
        printf 'PUB %s _INBOX.exit %d\r\n%s\r\n' "$subject" "${#payload}" "$payload" >&3
        while read -r -t 10 first <&3; do
          case "$first" in PING*) printf 'PONG\r\n' >&3 ;; *) break ;; esac
        done
        case "$first" in MSG*) ;; *) echo "instead of an answer: $first" >&2; exit 1 ;; esac
        read -r -t 10 answer <&3
        echo "$answer"
      done <<< "$LINES_ASKED"
      """#
    return try await shell(script, environment: ["PORT": port, "LINES_ASKED": lines])
  }

  /// Every message of the stream, by its number, or that there is none.
  static func messages(port: String) async throws -> String {
    try await ask(port: port, (1...102).map { ("$JS.API.STREAM.MSG.GET.ORDERS", "{\"seq\":\($0)}") })
  }

  static func settings(endpoint: String) async throws -> String {
    try await shell("ETCDCTL_API=3 etcdctl --endpoints \(endpoint) get setting/ --prefix")
  }

  /// Ends the server that a block of the page started, by who listens.
  static func endListener(_ port: String) async throws {
    let pid = await BlockingPool.shared.run { UInt16(port).flatMap { ListeningProcess.find(port: $0) } }
    if let pid { try await shell("kill \(pid)") }
  }

  /// Every message of a node's two queues, in order; none is left there.
  static func parcels(port: String) async throws -> String {
    try await shell(
      """
      for queue in parcels; do
        while amqp-get -u amqp://guest:guest@127.0.0.1:\(port) -q "$queue"; do echo; done
      done
      """)
  }

  static func keys(port: String) async throws -> String {
    try await shell(
      """
      redis-cli -p \(port) --scan | sort
      redis-cli -p \(port) MGET $(seq -f 'key:%g' 1 200)
      redis-cli -p \(port) HGETALL session
      redis-cli -p \(port) LRANGE queue 0 -1
      """)
  }
}
