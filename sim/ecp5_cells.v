// SPDX-License-Identifier: Apache-2.0
// What Yosys has of an ECP5 only as black boxes, for the simulation of netlists: DP16KD and
// MULT18X18D, as FPGA-TN-02204 and FPGA-TN-02205 describe them, without what Yosys does not use.
// A netlist that uses more does not elaborate.
`timescale 1ns / 1ps
// Texts of different lengths are compared, bits chosen by narrow indices; what nobody uses is there
// because a netlist names it; two ports write one memory; outputs begin with 0, as in the device.
/* verilator lint_off DECLFILENAME */
/* verilator lint_off GENUNNAMED */
/* verilator lint_off WIDTHEXPAND */
/* verilator lint_off UNUSEDSIGNAL */
/* verilator lint_off UNUSEDPARAM */
/* verilator lint_off PROCASSINIT */
/* verilator lint_off MULTIDRIVEN */
module DP16KD (
    input CLKA, CEA, OCEA, WEA, RSTA, CSA2, CSA1, CSA0,
    input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
    input DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0,
    input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9,
    output DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0,
    output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9,
    input CLKB, CEB, OCEB, WEB, RSTB, CSB2, CSB1, CSB0,
    input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
    input DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0,
    input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9,
    output DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0,
    output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9
);
    parameter integer DATA_WIDTH_A = 18, DATA_WIDTH_B = 18;
    parameter REGMODE_A = "NOREG", REGMODE_B = "NOREG", RESETMODE = "SYNC";
    parameter ASYNC_RESET_RELEASE = "SYNC", CSDECODE_A = "0b000", CSDECODE_B = "0b000";
    parameter WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL", GSR = "ENABLED";
    parameter CLKAMUX = "CLKA", CLKBMUX = "CLKB", INIT_DATA = "STATIC", WID = 0;
    parameter [319:0] INITVAL_00 = 0, INITVAL_01 = 0, INITVAL_02 = 0, INITVAL_03 = 0;
    parameter [319:0] INITVAL_04 = 0, INITVAL_05 = 0, INITVAL_06 = 0, INITVAL_07 = 0;
    parameter [319:0] INITVAL_08 = 0, INITVAL_09 = 0, INITVAL_0A = 0, INITVAL_0B = 0;
    parameter [319:0] INITVAL_0C = 0, INITVAL_0D = 0, INITVAL_0E = 0, INITVAL_0F = 0;
    parameter [319:0] INITVAL_10 = 0, INITVAL_11 = 0, INITVAL_12 = 0, INITVAL_13 = 0;
    parameter [319:0] INITVAL_14 = 0, INITVAL_15 = 0, INITVAL_16 = 0, INITVAL_17 = 0;
    parameter [319:0] INITVAL_18 = 0, INITVAL_19 = 0, INITVAL_1A = 0, INITVAL_1B = 0;
    parameter [319:0] INITVAL_1C = 0, INITVAL_1D = 0, INITVAL_1E = 0, INITVAL_1F = 0;
    parameter [319:0] INITVAL_20 = 0, INITVAL_21 = 0, INITVAL_22 = 0, INITVAL_23 = 0;
    parameter [319:0] INITVAL_24 = 0, INITVAL_25 = 0, INITVAL_26 = 0, INITVAL_27 = 0;
    parameter [319:0] INITVAL_28 = 0, INITVAL_29 = 0, INITVAL_2A = 0, INITVAL_2B = 0;
    parameter [319:0] INITVAL_2C = 0, INITVAL_2D = 0, INITVAL_2E = 0, INITVAL_2F = 0;
    parameter [319:0] INITVAL_30 = 0, INITVAL_31 = 0, INITVAL_32 = 0, INITVAL_33 = 0;
    parameter [319:0] INITVAL_34 = 0, INITVAL_35 = 0, INITVAL_36 = 0, INITVAL_37 = 0;
    parameter [319:0] INITVAL_38 = 0, INITVAL_39 = 0, INITVAL_3A = 0, INITVAL_3B = 0;
    parameter [319:0] INITVAL_3C = 0, INITVAL_3D = 0, INITVAL_3E = 0, INITVAL_3F = 0;
    function usable(input integer width);
        usable = width == 1 || width == 2 || width == 4 || width == 9 || width == 18 || width == 36;
    endfunction
    if (!usable(DATA_WIDTH_A) || !usable(DATA_WIDTH_B) || REGMODE_A != "NOREG"
            || REGMODE_B != "NOREG" || CSDECODE_A != "0b000"
            || CSDECODE_B != "0b000" || CLKAMUX != "CLKA" || CLKBMUX != "CLKB"
            || (WRITEMODE_A != "NORMAL" && WRITEMODE_A != "READBEFOREWRITE")
            || (WRITEMODE_B != "NORMAL" && WRITEMODE_B != "READBEFOREWRITE"))
        $fatal(1, "DP16KD must be used as its model can");

    // 9 bits of each of 2,048 places; widths below 9 leave the ninth out
    reg [8:0] memory [0:2047];
    integer at;
    reg [319:0] block;
    initial for (at = 0; at < 2048; at = at + 1) begin
        case (at >> 5)
            0: block = INITVAL_00;
            1: block = INITVAL_01;
            2: block = INITVAL_02;
            3: block = INITVAL_03;
            4: block = INITVAL_04;
            5: block = INITVAL_05;
            6: block = INITVAL_06;
            7: block = INITVAL_07;
            8: block = INITVAL_08;
            9: block = INITVAL_09;
            10: block = INITVAL_0A;
            11: block = INITVAL_0B;
            12: block = INITVAL_0C;
            13: block = INITVAL_0D;
            14: block = INITVAL_0E;
            15: block = INITVAL_0F;
            16: block = INITVAL_10;
            17: block = INITVAL_11;
            18: block = INITVAL_12;
            19: block = INITVAL_13;
            20: block = INITVAL_14;
            21: block = INITVAL_15;
            22: block = INITVAL_16;
            23: block = INITVAL_17;
            24: block = INITVAL_18;
            25: block = INITVAL_19;
            26: block = INITVAL_1A;
            27: block = INITVAL_1B;
            28: block = INITVAL_1C;
            29: block = INITVAL_1D;
            30: block = INITVAL_1E;
            31: block = INITVAL_1F;
            32: block = INITVAL_20;
            33: block = INITVAL_21;
            34: block = INITVAL_22;
            35: block = INITVAL_23;
            36: block = INITVAL_24;
            37: block = INITVAL_25;
            38: block = INITVAL_26;
            39: block = INITVAL_27;
            40: block = INITVAL_28;
            41: block = INITVAL_29;
            42: block = INITVAL_2A;
            43: block = INITVAL_2B;
            44: block = INITVAL_2C;
            45: block = INITVAL_2D;
            46: block = INITVAL_2E;
            47: block = INITVAL_2F;
            48: block = INITVAL_30;
            49: block = INITVAL_31;
            50: block = INITVAL_32;
            51: block = INITVAL_33;
            52: block = INITVAL_34;
            53: block = INITVAL_35;
            54: block = INITVAL_36;
            55: block = INITVAL_37;
            56: block = INITVAL_38;
            57: block = INITVAL_39;
            58: block = INITVAL_3A;
            59: block = INITVAL_3B;
            60: block = INITVAL_3C;
            61: block = INITVAL_3D;
            62: block = INITVAL_3E;
            63: block = INITVAL_3F;
        endcase
        memory[at] = block[20 * ((at >> 1) & 15) + 9 * (at & 1) +: 9];
    end

    wire [13:0] address_A = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3,
        ADA2, ADA1, ADA0};
    wire [17:0] in_A = {DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7,
        DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0};
    wire chosen_A = CEA && !CSA2 && !CSA1 && !CSA0;
    reg [17:0] out_A = 0;
    wire [13:0] address_B = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3,
        ADB2, ADB1, ADB0};
    wire [17:0] in_B = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7,
        DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0};
    wire chosen_B = CEB && !CSB2 && !CSB1 && !CSB0;
    reg [17:0] out_B = 0;
    reg [17:0] low = 0;
    assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5,
        DOA4, DOA3, DOA2, DOA1, DOA0} = DATA_WIDTH_B == 36 ? low : out_A;
    assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5,
        DOB4, DOB3, DOB2, DOB1, DOB0} = out_B;

    // Which bits of a place a port writes: what the other reads of them is wrong, whatever it was.
    function [8:0] written(input [10:0] place, input [13:0] address, input integer width);
        case (width)
            1: written = {8'b0, place == address[13:3]} << address[2:0];
            2: written = {7'b0, {2{place == address[13:3]}}} << {address[2:1], 1'b0};
            4: written = {5'b0, {4{place == address[13:3]}}} << {address[2], 2'b0};
            9: written = {9{place == address[13:3]}};
            18: written = {9{place[10:1] == address[13:4] && address[place[0]]}};
            default: written = {9{place[10:2] == address[13:5] && address[place[1:0]]}};
        endcase
    endfunction
    function [8:0] seen_A(input [10:0] place);
        seen_A = memory[place]
                 ^ (chosen_B && WEB ? written(place, address_B, DATA_WIDTH_B) : 9'b0);
    endfunction
    function [8:0] seen_B(input [10:0] place);
        seen_B = memory[place]
                 ^ (chosen_A && WEA ? written(place, address_A, DATA_WIDTH_A) : 9'b0);
    endfunction
    // What a word is of the two bytes, or the one, in which it lies.
    function [17:0] word(input [17:0] bytes, input [2:0] bit_at, input integer width);
        case (width)
            1: word = {17'b0, bytes[{2'b0, bit_at}]};
            2: word = {16'b0, bytes[{2'b0, bit_at[2:1], 1'b0} +: 2]};
            4: word = {14'b0, bytes[{2'b0, bit_at[2], 2'b0} +: 4]};
            9: word = {9'b0, bytes[8:0]};
            default: word = bytes;
        endcase
    endfunction
    // The place of the lower of these bytes; 36 bits come out of both ports.
    function [10:0] first(input [13:0] address, input integer width);
        first = width == 36 ? {address[13:5], 2'b10} : width == 18 ? {address[13:4], 1'b0}
                : address[13:3];
    endfunction
    task write(input [13:0] address, input [35:0] data, input integer width);
        case (width)
            1: memory[address[13:3]][address[2:0]] <= data[0];
            2: memory[address[13:3]][{address[2:1], 1'b0} +: 2] <= data[1:0];
            4: memory[address[13:3]][{address[2], 2'b0} +: 4] <= data[3:0];
            9: memory[address[13:3]] <= data[8:0];
            18: begin  // the lowest bits of the address enable bytes
                if (address[0]) memory[{address[13:4], 1'b0}] <= data[8:0];
                if (address[1]) memory[{address[13:4], 1'b1}] <= data[17:9];
            end
            default: begin
                if (address[0]) memory[{address[13:5], 2'd0}] <= data[8:0];
                if (address[1]) memory[{address[13:5], 2'd1}] <= data[17:9];
                if (address[2]) memory[{address[13:5], 2'd2}] <= data[26:18];
                if (address[3]) memory[{address[13:5], 2'd3}] <= data[35:27];
            end
        endcase
    endtask

    always @(posedge RSTA, posedge RSTB) if (RESETMODE != "SYNC")
        $fatal(1, "DP16KD must not be reset without its clock");
    wire [10:0] first_A = first(address_A, DATA_WIDTH_A);
    always @(posedge CLKA) begin
        if (chosen_A && WEA) write(address_A, {in_B, in_A}, DATA_WIDTH_A);
        if (RSTA) out_A <= 0;
        else if (chosen_A && (!WEA || WRITEMODE_A == "READBEFOREWRITE"))
            out_A <= word({seen_A(first_A | 11'd1), seen_A(first_A)}, address_A[2:0],
                          DATA_WIDTH_A);
    end
    wire [10:0] first_B = first(address_B, DATA_WIDTH_B);
    always @(posedge CLKB) begin
        if (chosen_B && WEB) write(address_B, {18'b0, in_B}, DATA_WIDTH_B);
        if (RSTB) out_B <= 0;
        else if (chosen_B && (!WEB || WRITEMODE_B == "READBEFOREWRITE"))
            out_B <= word({seen_B(first_B | 11'd1), seen_B(first_B)}, address_B[2:0],
                          DATA_WIDTH_B);
        if (RSTB) low <= 0;
        else if (chosen_B)
            low <= {seen_B({address_B[13:5], 2'd1}), seen_B({address_B[13:5], 2'd0})};
    end
endmodule

module MULT18X18D (
    input A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0,
    input B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0,
    input C17, C16, C15, C14, C13, C12, C11, C10, C9, C8, C7, C6, C5, C4, C3, C2, C1, C0,
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, CLK0, CE0, RST0,
    output P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18,
        P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
);
    parameter REG_INPUTA_CLK = "NONE", REG_INPUTB_CLK = "NONE", REG_INPUTC_CLK = "NONE";
    parameter REG_PIPELINE_CLK = "NONE", REG_OUTPUT_CLK = "NONE", GSR = "ENABLED";
    parameter REG_OUTPUT_CE = "CE0", REG_OUTPUT_RST = "RST0", RESETMODE = "SYNC";
    localparam KEEPS = REG_OUTPUT_CLK == "CLK0";
    if (REG_INPUTA_CLK != "NONE" || REG_INPUTB_CLK != "NONE" || REG_INPUTC_CLK != "NONE"
            || REG_PIPELINE_CLK != "NONE" || (!KEEPS && REG_OUTPUT_CLK != "NONE")
            || REG_OUTPUT_CE != "CE0" || REG_OUTPUT_RST != "RST0" || RESETMODE != "SYNC")
        $fatal(1, "MULT18X18D must be used as its model can");

    wire [17:0] left = {A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1,
        A0};
    wire [17:0] right = {B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1,
        B0};
    wire signed [36:0] product = $signed({SIGNEDA & left[17], left})
                                 * $signed({SIGNEDB & right[17], right});
    reg [35:0] kept = 0;
    always @(posedge CLK0)
        if (KEEPS && RST0) kept <= 0;
        else if (KEEPS && CE0) kept <= product[35:0];
    assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19,
        P18, P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0} =
        KEEPS ? kept : product[35:0];
endmodule
