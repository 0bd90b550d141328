// SPDX-License-Identifier: Apache-2.0
// A chip between a host and an AXI4 memory, all in Verilog, so that a simulation runs at the
// simulator's speed: cocotb asks for register accesses, and for memory to be loaded and dumped.
// Every rule of AXI that the chip must keep is checked in each cycle; `violation` is the number of
// the first one broken, see sim/chip.py.
//
// Plusargs: +memory=FILE, read by $readmemh when `load` rises, written when `dump` does.
`timescale 1ns / 1ps
module chip_bench (
    input clk,
    input rst,
    // Host: one access while `go` is high, until `done` rises
    input go,
    input go_write,
    input [11:0] go_address,
    input [31:0] go_data,
    input [3:0] go_strobe,
    output reg done,
    output reg [1:0] done_response,
    output reg [31:0] done_data,
    // Memory
    input load,
    input dump,
    input [31:0] first_word,
    input [31:0] last_word,
    input [31:0] latency,        // cycles from an accepted burst to its first beat or its response
    input [7:0] stall_read,      // out of 256: how often a channel is delayed
    input [7:0] stall_write,
    input [7:0] stall_host,
    input [15:0] error_rate,     // out of 65536: how often a burst ends with an error
    input [15:0] pause_rate,     // out of 65536, in each cycle: how often all of the bus pauses,
    input [31:0] pause_cycles,   // for so long
    input [63:0] seed,
    input [31:0] fault_low,      // bursts that begin in fault_low .. fault_high - 1 end with an error
    input [31:0] fault_high,
    input [31:0] allow_low,      // what the chip may touch, both included
    input [31:0] allow_high,
    output irq,
    output reg [7:0] violation,
    output [31:0] under_way,
    output reg [31:0] cycle,
    output reg [31:0] read_beats, read_first, read_last,     // cycles of first and last beat
    output reg [31:0] write_beats, write_first, write_last,
    input clear_marks
);
    parameter DATA_BYTES = 16;
    parameter WORDS_LOG2 = 18;
    parameter MEMORY = 32'h40000000;
    localparam DATA_BITS = 8 * DATA_BYTES;
    localparam SHIFT = $clog2(DATA_BYTES);
    localparam SIZE = 1 << (WORDS_LOG2 + SHIFT);

    reg [DATA_BITS-1:0] memory[0:(1<<WORDS_LOG2)-1];
    reg [8*256-1:0] name;
    integer word;
    initial for (word = 0; word < 1 << WORDS_LOG2; word = word + 1) memory[word] = 0;
    always @(posedge load)
        if ($value$plusargs("memory=%s", name)) $readmemh(name, memory, first_word, last_word);
    always @(posedge dump)
        if ($value$plusargs("memory=%s", name)) $writememh(name, memory, first_word, last_word);

    reg [63:0] random;
    wire [63:0] random_1 = random ^ (random << 13);
    wire [63:0] random_2 = random_1 ^ (random_1 >> 7);
    reg [31:0] pause;
    wire paused = pause != 0;
    always @(posedge clk) begin
        cycle <= rst ? 0 : cycle + 1;
        random <= rst ? seed : random_2 ^ (random_2 << 17);
        if (rst) pause <= 0;
        else if (paused) pause <= pause - 1;
        else if (random[63:48] < pause_rate) pause <= pause_cycles;
    end
    function [1:0] answer(input [31:0] address, input [15:0] dice);
        if (address - MEMORY >= SIZE) answer = 3;
        else if (address >= fault_low && address < fault_high) answer = 2;
        else if (dice < error_rate) answer = dice[0] ? 2 : 3;
        else answer = 0;
    endfunction

    // The host: address and data come in either order, responses are taken when it likes
    reg awvalid, wvalid, arvalid, asked;
    wire awready, wready, arready, bvalid, rvalid;
    wire [1:0] bresp, rresp;
    wire [31:0] rdata;
    wire host_stalls = random[7:0] < stall_host;
    wire bready = asked && !host_stalls, rready = asked && !host_stalls;
    always @(posedge clk) begin
        if (rst || !go) begin
            {awvalid, wvalid, arvalid, asked, done} <= 0;
            if (rst) {done_response, done_data} <= 0;
        end else if (!done) begin
            if (!asked) begin
                if (!host_stalls) begin
                    asked <= 1;
                    awvalid <= go_write;
                    wvalid <= go_write && !random[8];
                    arvalid <= !go_write;
                end
            end
            if (awvalid && awready) awvalid <= 0;
            if (wvalid && wready) wvalid <= 0;
            if (awvalid && !wvalid && !host_stalls) wvalid <= 1;
            if (arvalid && arready) arvalid <= 0;
            if (bvalid && bready) begin
                done <= 1;
                done_response <= bresp;
            end
            if (rvalid && rready) begin
                done <= 1;
                done_response <= rresp;
                done_data <= rdata;
            end
        end
    end

    // Reads
    wire [31:0] m_araddr, m_awaddr;
    wire [7:0] m_arlen, m_awlen;
    wire [2:0] m_arsize, m_awsize;
    wire [1:0] m_arburst, m_awburst;
    wire m_arvalid, m_awvalid, m_wvalid, m_rready, m_bready, m_wlast;
    wire [DATA_BITS-1:0] m_wdata;
    wire [DATA_BYTES-1:0] m_wstrb;
    reg m_arready, m_awready, m_wready_, m_rvalid, m_rlast, m_bvalid;
    reg [1:0] m_rresp, m_bresp;
    reg [DATA_BITS-1:0] m_rdata;
    reg [31:0] read_address[0:63], read_due[0:63];
    reg [7:0] read_length[0:63];
    reg [1:0] read_answer[0:63];
    reg [5:0] read_in, read_out;
    reg [7:0] beat;
    wire [5:0] read_level = read_in - read_out;
    wire [31:0] beat_address = read_address[read_out] + {24'b0, beat} * DATA_BYTES;
    wire beat_due = read_level != 0 && cycle >= read_due[read_out]
        && random[23:16] >= stall_read && !paused;
    always @(posedge clk) begin
        m_arready <= read_level < 60 && random[31:24] >= stall_read && !paused;
        if (rst) begin
            read_in <= 0;
            read_out <= 0;
            beat <= 0;
            m_rvalid <= 0;
        end else begin
            if (m_arvalid && m_arready) begin
                read_address[read_in] <= m_araddr;
                read_length[read_in] <= m_arlen;
                read_answer[read_in] <= answer(m_araddr, random[47:32]);
                read_due[read_in] <= cycle + latency - 1;
                read_in <= read_in + 1;
            end
            if (!m_rvalid || m_rready) begin
                m_rvalid <= beat_due;
                if (beat_due) begin
                    m_rdata <= read_answer[read_out] != 0 ? ~0
                        : memory[beat_address[SHIFT+:WORDS_LOG2]];
                    m_rresp <= read_answer[read_out];
                    m_rlast <= beat == read_length[read_out];
                    beat <= beat + 1;
                    if (beat == read_length[read_out]) begin
                        beat <= 0;
                        read_out <= read_out + 1;
                    end
                end
            end
        end
    end

    // Writes
    reg [31:0] write_address[0:15], write_due[0:15];
    reg [7:0] write_length[0:15];
    reg [1:0] write_answer[0:15];
    reg [3:0] write_in, write_at, write_out;  // asked, written, responded
    reg [7:0] write_beat;
    wire m_wready = m_wready_ && write_in != write_at;
    wire [3:0] write_level = write_in - write_out;
    wire [31:0] word_address = write_address[write_at] + {24'b0, write_beat} * DATA_BYTES;
    integer lane;
    always @(posedge clk) begin
        m_awready <= write_level < 12 && random[39:32] >= stall_write && !paused;
        m_wready_ <= random[15:8] >= stall_write && !paused;
        if (rst) begin
            write_in <= 0;
            write_at <= 0;
            write_out <= 0;
            write_beat <= 0;
            m_bvalid <= 0;
        end else begin
            if (m_awvalid && m_awready) begin
                write_address[write_in] <= m_awaddr;
                write_length[write_in] <= m_awlen;
                write_answer[write_in] <= answer(m_awaddr, random[55:40]);
                write_in <= write_in + 1;
            end
            if (m_wvalid && m_wready) begin
                if (write_answer[write_at] == 0)
                    for (lane = 0; lane < DATA_BYTES; lane = lane + 1)
                        if (m_wstrb[lane])
                            memory[word_address[SHIFT+:WORDS_LOG2]][8*lane+:8]
                                <= m_wdata[8*lane+:8];
                write_beat <= write_beat + 1;
                if (m_wlast) begin
                    write_beat <= 0;
                    write_due[write_at] <= cycle + latency - 1;
                    write_at <= write_at + 1;
                end
            end
            if (m_bvalid && m_bready) begin
                m_bvalid <= 0;
                write_out <= write_out + 1;
            end else if (!m_bvalid && write_at != write_out && cycle >= write_due[write_out]
                         && random[63:56] >= stall_write && !paused) begin
                m_bvalid <= 1;
                m_bresp <= write_answer[write_out];
            end
        end
    end
    assign under_way = {26'b0, read_level} + {28'b0, write_level} + {31'b0, m_rvalid};

    // Marks for throughput
    always @(posedge clk)
        if (rst || clear_marks) begin
            read_beats <= 0;
            write_beats <= 0;
        end else begin
            if (m_rvalid && m_rready) begin
                read_beats <= read_beats + 1;
                read_last <= cycle;
                if (read_beats == 0) read_first <= cycle;
            end
            if (m_wvalid && m_wready) begin
                write_beats <= write_beats + 1;
                write_last <= cycle;
                if (write_beats == 0) write_first <= cycle;
            end
        end

    // The rules
    reg was_reset, ar_waits, aw_waits, w_waits, b_waits, r_waits;
    reg [44:0] ar_was, aw_was;
    reg [DATA_BITS+DATA_BYTES:0] w_was;
    reg [1:0] b_was;
    reg [33:0] r_was;
    wire [44:0] ar_is = {m_araddr, m_arlen, m_arsize, m_arburst};
    wire [44:0] aw_is = {m_awaddr, m_awlen, m_awsize, m_awburst};
    wire [DATA_BITS+DATA_BYTES:0] w_is = {m_wlast, m_wstrb, m_wdata};
    function [7:0] burst_rule(input [44:0] burst);
        reg [31:0] low, high;
        begin
            low = burst[44:13];
            high = low + ({24'b0, burst[12:5]} + 1) * DATA_BYTES - 1;
            burst_rule = burst[1:0] != 1 ? 4                      // INCR
                : burst[4:2] != SHIFT ? 5                        // whole beats
                : (low & (DATA_BYTES - 1)) != 0 ? 6              // aligned
                : low[31:12] != high[31:12] ? 7                  // within 4 KB
                : low < allow_low || high > allow_high ? 8       // within the window
                : 0;
        end
    endfunction
    task broken(input [7:0] rule);
        if (violation == 0) violation <= rule;
    endtask
    always @(posedge clk) begin
        was_reset <= rst;
        ar_waits <= m_arvalid && !m_arready;
        aw_waits <= m_awvalid && !m_awready;
        w_waits <= m_wvalid && !m_wready;
        b_waits <= bvalid && !bready;
        r_waits <= rvalid && !rready;
        ar_was <= ar_is;
        aw_was <= aw_is;
        w_was <= w_is;
        b_was <= bresp;
        r_was <= {rresp, rdata};
        if (rst) violation <= 0;
        else if (!was_reset) begin
            if (ar_waits && (!m_arvalid || ar_is != ar_was)) broken(1);
            if (aw_waits && (!m_awvalid || aw_is != aw_was)) broken(2);
            if (w_waits && (!m_wvalid || w_is != w_was)) broken(3);
            if (m_arvalid && burst_rule(ar_is) != 0) broken(burst_rule(ar_is));
            if (m_awvalid && burst_rule(aw_is) != 0) broken(burst_rule(aw_is));
            if (m_wvalid && write_in == write_at && !m_awvalid) broken(9);
            if (m_wvalid && m_wready && m_wlast != (write_beat == write_length[write_at]))
                broken(10);
            if (b_waits && (!bvalid || bresp != b_was)) broken(11);
            if (r_waits && (!rvalid || {rresp, rdata} != r_was)) broken(12);
            if ((bvalid && !(asked && go_write)) || (rvalid && !(asked && !go_write))) broken(13);
        end else if (m_arvalid || m_awvalid || m_wvalid || bvalid || rvalid) broken(14);
    end

    chip chip (
        .aclk(clk), .aresetn(!rst), .irq(irq),
        .s_axil_awaddr(go_address), .s_axil_awprot(3'b0), .s_axil_awvalid(awvalid),
        .s_axil_awready(awready), .s_axil_wdata(go_data), .s_axil_wstrb(go_strobe),
        .s_axil_wvalid(wvalid), .s_axil_wready(wready), .s_axil_bresp(bresp),
        .s_axil_bvalid(bvalid), .s_axil_bready(bready), .s_axil_araddr(go_address),
        .s_axil_arprot(3'b0), .s_axil_arvalid(arvalid), .s_axil_arready(arready),
        .s_axil_rdata(rdata), .s_axil_rresp(rresp), .s_axil_rvalid(rvalid), .s_axil_rready(rready),
        .m_axi_awid(), .m_axi_awaddr(m_awaddr), .m_axi_awlen(m_awlen), .m_axi_awsize(m_awsize),
        .m_axi_awburst(m_awburst), .m_axi_awlock(), .m_axi_awcache(), .m_axi_awprot(),
        .m_axi_awqos(), .m_axi_awvalid(m_awvalid), .m_axi_awready(m_awready),
        .m_axi_wdata(m_wdata), .m_axi_wstrb(m_wstrb), .m_axi_wlast(m_wlast),
        .m_axi_wvalid(m_wvalid), .m_axi_wready(m_wready), .m_axi_bid(1'b0), .m_axi_bresp(m_bresp),
        .m_axi_bvalid(m_bvalid), .m_axi_bready(m_bready),
        .m_axi_arid(), .m_axi_araddr(m_araddr), .m_axi_arlen(m_arlen), .m_axi_arsize(m_arsize),
        .m_axi_arburst(m_arburst), .m_axi_arlock(), .m_axi_arcache(), .m_axi_arprot(),
        .m_axi_arqos(), .m_axi_arvalid(m_arvalid), .m_axi_arready(m_arready), .m_axi_rid(1'b0),
        .m_axi_rdata(m_rdata), .m_axi_rresp(m_rresp), .m_axi_rlast(m_rlast),
        .m_axi_rvalid(m_rvalid), .m_axi_rready(m_rready)
    );
endmodule
